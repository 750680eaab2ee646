"""An incident, replayed with real processes and solved on the page alone; and the page's figures after kills."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from taskflow_otel.model.status import TaskStatus
from tests.procs import AppProcess
from tests.records import records_in
from tests.waiting import eventually

pytestmark = pytest.mark.browser

APP = "tests.apps.incident_app:app"
LEASE = 6.0
USUAL = 24
"""Orders before the incident: enough to know how long each type takes."""
BROKEN = {"charge_card": 5, "send_mail": 4, "build_report": 3}
"""How often each type fails after the release."""


@pytest.fixture
def shop(tmp_path: Path) -> Callable[[str], AppProcess]:
    """One instance of a release; all of them share a database."""

    def instance(release: str) -> AppProcess:
        directory = tmp_path / f"release-{release}"
        directory.mkdir(exist_ok=True)
        environment = {"APP_DIRECTORY": str(tmp_path), "APP_RELEASE": release, "APP_LEASE": str(LEASE)}
        return AppProcess(APP, directory, env=environment)

    return instance


async def order(server: AppProcess, task: str, numbers: range) -> list[str]:
    """Add tasks of a type; their ids."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        answers = [await client.post(f"/{task}/{number}") for number in numbers]
    return [answer.raise_for_status().json()["task_id"] for answer in answers]


async def stats(server: AppProcess) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        found: dict[str, Any] = (await client.get("/tasks/stats?exact=true")).json()
    return found


async def settled(server: AppProcess, running: int = 0) -> None:
    """Wait until nothing is left to do, except for some that hang."""

    async def idle() -> bool:
        found = await stats(server)
        return bool(found["pending"] == 0 and found["running"] == running)

    await eventually(idle, "the end of the tasks", timeout=60)


class OnCall:
    """Someone who knows nothing but the page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def go(self, name: str) -> None:
        """Open a view by its link in the navigation."""
        await self.page.get_by_role("navigation").get_by_role("link", name=name).click()
        await expect(self.page.get_by_role("heading", name=name, exact=True)).to_be_visible()

    async def groups(self, number: int) -> Locator:
        """The rows of what has failed, once this number of groups is there."""
        await self.go("Failures")
        rows = self.page.locator(".group")
        await expect(rows).to_have_count(number)
        return rows

    async def choose(self, title: str) -> None:
        """Read one group."""
        await self.page.locator(".group").filter(has_text=title).click()
        await expect(self.page.locator(".failure").get_by_role("heading", name=title)).to_be_visible()

    async def retry_all(self, title: str, number: int, reason: str) -> None:
        """Retry what is open of one group, and nothing else."""
        await self.choose(title)
        await self.page.get_by_role("button", name=f"Retry {number} open").click()
        await self.page.get_by_label("Reason").fill(reason)
        await self.page.get_by_role("button", name="Retry them").click()
        await expect(self.page.locator(".group").filter(has_text=title)).to_contain_text(re.compile(r"(?<!\d)0 / \d"))


async def test_an_incident_is_solved_on_the_page_alone(
    tmp_path: Path, shop: Callable[[str], AppProcess], browser: Browser
) -> None:
    with shop("1.0") as old:
        for task in (*BROKEN, "import_rows"):
            await order(old, task, range(0, 2 * USUAL, 2))
        await settled(old)
        (tmp_path / "broken").touch()
        (tmp_path / "shipping").touch()
        with shop("2.0") as new:
            failing = [one for task, times in BROKEN.items() for one in await order(new, task, range(times))]
            await order(new, "import_rows", range(1, 2))
            shipped = await order(old, "ship", range(2))
            await eventually(
                lambda: len((tmp_path / "begun").read_text().split()) == 2, "two tasks in the old instance"
            )
            old.kill()

            async def taken_note_of() -> bool:
                return bool((await stats(new))["interrupted"] == 2)

            await eventually(taken_note_of, "the death of the old instance", timeout=60)
            (tmp_path / "shipping").unlink()
            page = await browser.new_page(viewport={"width": 1360, "height": 900})
            await page.goto(f"{new.url}/tasks/dashboard")
            await solve(OnCall(page), repair=(tmp_path / "broken").unlink)
            await settled(new)
            await page.close()
    records = await records_in(tmp_path / "tasks.db")
    # Exactly those were retried that had failed or were interrupted, each once, and each with success.
    retried = {record.retry_of for record in records.values() if record.retry_of is not None}
    assert retried == {*failing, *shipped}
    assert len(records) == 4 * USUAL + 2 * len(retried) + 1
    successors = [records[records[task_id].retried_by or ""] for task_id in retried]
    assert {record.status for record in successors} == {TaskStatus.SUCCESS}
    assert Counter(record.status for record in records.values())[TaskStatus.CANCELLED] == 1


async def solve(one: OnCall, repair: Callable[[], object]) -> None:
    """Which type, since when, why; fix exactly those."""
    page = one.page
    # Something is wrong: the overview says how much.
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    # Which types, how many of each, and that they are new.
    groups = await one.groups(4)
    for title, name, number in (
        ("LookupError", "charge_card", 5),
        ("ConnectionError", "send_mail", 4),
        ("ValueError", "build_report", 3),
        ("Its process died", "ship", 2),
    ):
        row = groups.filter(has_text=title)
        await expect(row).to_contain_text(name)
        await expect(row).to_contain_text(f"{number} / {number}")
        await expect(row.locator(".badge")).to_have_text("new")
    # Since when, and why: the first cause, the own line, the arguments.
    await one.choose("LookupError")
    detail = page.locator(".failure")
    await expect(detail.get_by_text(re.compile(r"first (just now|\d+ (s|min) ago)"))).to_be_visible()
    await expect(detail.locator(".cause-error").first).to_contain_text("TimeoutError: no answer for order")
    await expect(detail.locator(".frame.own:visible").first).to_contain_text("incident_app.py")
    await expect(detail.get_by_label("Arguments")).to_contain_text(re.compile(r'"order": \d'))
    # A sample says on which instance it failed, and the instances say of which release that is.
    await detail.locator(".samples a.mono").first.click()
    await expect(page.locator(".sentence")).to_contain_text("Failed")
    instance = await page.locator(".facts div").filter(has_text="Ran on").locator(".mono").inner_text()
    await one.go("Instances")
    rows = page.locator("tbody tr")
    await expect(rows.filter(has_text=instance)).to_contain_text("2.0")
    dead = rows.filter(has_text="dead")
    await expect(dead).to_contain_text("2 running tasks")
    await expect(dead.get_by_role("link")).to_have_count(2)
    # What hangs: it has run longer than usual, and it says where.
    await one.go("Overview")
    stuck = page.locator(".running-rows tbody tr").first
    await expect(stuck).to_contain_text("import_rows")
    await expect(stuck.locator(".badge")).to_contain_text("× p95")
    await stuck.get_by_role("link").click()
    await page.get_by_role("button", name="Where is it?").click()
    await expect(page.get_by_role("region", name="Stacks")).to_contain_text("wait_for_the_lock")
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_label("Reason").fill("it waits for a lock that nobody releases")
    await page.get_by_role("button", name="Cancel the task").click()
    await expect(page.locator(".task-head")).to_contain_text("cancelled")
    await expect(page.locator(".events")).to_contain_text("it waits for a lock that nobody releases")
    # The cause is repaired elsewhere; then exactly the open ones run again.
    repair()
    await one.groups(4)
    for title, number in (("LookupError", 5), ("ConnectionError", 4), ("ValueError", 3), ("Its process died", 2)):
        await one.retry_all(title, number, "release 2.0 is repaired")
    await expect(page.get_by_text(re.compile(r"groups, 0 open"))).to_be_visible()
    # It leaves a trace.
    await one.go("Audit")
    await expect(page.locator("tbody tr").filter(has_text="release 2.0 is repaired")).to_have_count(4)


async def test_the_figures_of_the_page_are_those_of_the_ledger_after_kills(
    tmp_path: Path, shop: Callable[[str], AppProcess], browser: Browser
) -> None:
    draw = random.Random(7)
    (tmp_path / "broken").touch()
    with shop("2.0") as server:
        for _ in range(3):
            acknowledged: list[str] = []
            kill_at = draw.randint(20, 60)

            async def send(task: str, seen: list[str] = acknowledged, limit: int = kill_at) -> None:
                for number in range(0, 40, 2):
                    try:
                        seen += await order(server, task, range(number, number + 1))
                    except (httpx.TransportError, httpx.HTTPStatusError):
                        return
                    if len(seen) == limit:
                        server.kill()

            await asyncio.gather(*(send(task) for task in (*BROKEN, "import_rows")))
            server.kill()
            server.start()
            await settled(server)
        page = await browser.new_page(viewport={"width": 1360, "height": 900})
        await page.goto(f"{server.url}/tasks/dashboard?window=1h")
        records = await records_in(tmp_path / "tasks.db")
        by_status = Counter(record.status.value for record in records.values())
        finished = sum(by_status.values())
        tiles = page.get_by_role("region", name="Figures")
        await expect(tiles).to_contain_text(f"{finished} finished")
        share = 100 * by_status["failed"] / (by_status["failed"] + by_status["success"])
        failures = tiles.locator(".tile").filter(has_text="Failure share").locator("strong")
        assert abs(float((await failures.inner_text()).split()[0]) - share) <= 0.5
        # Each group has as many tasks as the ledger has of its fingerprint.
        expected = Counter(record.fingerprint for record in records.values() if record.fingerprint is not None)
        await page.get_by_role("navigation").get_by_role("link", name="Failures").click()
        rows = page.locator(".group")
        await expect(rows).to_have_count(len(expected))
        for kind, number in expected.items():
            numbers = page.locator(f".group[data-fingerprint='{kind}'] .group-numbers > span").first
            await expect(numbers).to_have_text(f"{number} / {number}")
        await page.get_by_role("navigation").get_by_role("link", name="Tasks").click()
        for status, number in by_status.items():
            chip = page.locator(f".chip[data-status={status}] .chip-count")
            await expect(chip).to_have_text(str(number))
        await page.close()
