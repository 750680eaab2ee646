"""The types of tasks on the page, with known figures of the real engine."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from taskflow_otel import SLO
from taskflow_otel.model.figures import Span
from taskflow_otel.model.status import TaskStatus
from tests.waiting import eventually
from tests.web.conftest import OpenPage, ShowPage
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

_WEEK = timedelta(days=7)


def keep(engine: House, name: str, number: int, status: TaskStatus = TaskStatus.SUCCESS, **more: object) -> None:
    for _ in range(number):
        engine.keep(make_record(name, status, **more))  # type: ignore[arg-type]  # fields of a record


def ended(engine: House, name: str, at: datetime, duration: float = 1.0) -> None:
    record = make_record(name, duration=duration)
    record.created_at, record.end_time, record.timeline = at - timedelta(seconds=duration), at, ()
    engine.keep(record)


async def cells(page: Page, name: str) -> list[str]:
    """The texts of a row after its name."""
    row = page.locator("tbody tr").filter(has=page.get_by_role("link", name=name, exact=True))
    # The head of the view is there before its table.
    await expect(row).to_have_count(1)
    return (await row.locator("td").all_text_contents())[1:]


async def test_the_table_of_types_shows_their_figures_and_sorts_by_each(opened: OpenPage, engine: House) -> None:
    # Which hours are compared changes with the hour: this one must last for the whole test.
    await eventually(lambda: datetime.now(UTC).minute < 58, "a new hour", timeout=150)
    last = datetime.fromtimestamp(Span.HOUR.slot(datetime.now(UTC)) - 3_600, UTC)
    ended(engine, "before", last - _WEEK - timedelta(minutes=1))
    for number in range(24):
        ended(engine, "send", last - _WEEK + timedelta(minutes=number), 4.0)
    for number in range(36):
        ended(engine, "send", last + timedelta(minutes=number), 4.0)
    hostile = "a/b <b>\u202e"
    keep(engine, hostile, 2, TaskStatus.FAILED, age=86_000, wait=2.0, duration=3.0)
    async with opened("?view=types&window=24h") as page:
        await expect(page.get_by_role("heading", name="Types")).to_be_visible()
        assert await cells(page, "send") == ["36", "0 %", "4.00 s", "4.00 s", "4.00 s", "–", "96 %", "+50 %"]
        assert await cells(page, "a/b <b>\\u202e") == [
            "2",
            "100 %",
            "3.00 s",
            "3.00 s",
            "3.00 s",
            "2.00 s",
            "4.0 %",
            "–",
        ]
        assert await cells(page, "send_report") == ["0", "–", "–", "–", "–", "–", "0 %", "–"]
        change = page.get_by_role("cell", name="+50 %")
        assert "36 finished, p95 4.00 s. In the same hour a week before: 24 finished, p95 4.00 s." in str(
            await change.get_attribute("title")
        )
        first = page.locator("tbody tr").first
        await expect(first).to_contain_text("send")
        await page.get_by_role("button", name="Failures").click()
        await expect(first).to_contain_text("a/b")
        await expect(page.get_by_role("columnheader", name="Failures")).to_have_attribute("aria-sort", "descending")
        await page.reload()
        await expect(first).to_contain_text("a/b")
        await page.get_by_role("button", name="1h").click()
        await expect(page.get_by_role("link", name="a/b")).to_have_count(0)
        await page.get_by_role("button", name="24h").click()
        await page.get_by_role("link", name="a/b").click()
        await expect(page.get_by_role("heading", name="a/b")).to_contain_text("\\u202e")
        await expect(page.locator(".tile").filter(has_text="Failure share")).to_contain_text("2 failures")


async def test_a_type_shows_its_run_times_its_slowest_its_failures_and_its_options(
    opened: OpenPage, shown: ShowPage, engine: House
) -> None:
    async def pay() -> None:
        """Do nothing."""

    engine.manager.task(name="pay", retries=2, timeout=90, queue="mail", slo=SLO(success=0.9, within=30))(pay)
    keep(engine, "pay", 40, age=600, duration=0.25)
    keep(engine, "pay", 2, age=600, duration=40.0, retries_used=2)
    keep(engine, "pay", 5, TaskStatus.FAILED, age=60, duration=1.5, error="declined", error_type="CardError")
    keep(engine, "pay", 1, TaskStatus.RUNNING, age=5)
    keep(engine, "pay", 3, age=3 * 86_400, duration=300.0)
    async with opened(f"?view=type&name={quote('pay')}&window=1h") as page:
        tiles = page.locator(".tile")
        for number, text in enumerate(("47", "11 %", "4", "1.50 s", "20 ms", "1")):
            await expect(tiles.nth(number).locator("strong")).to_have_text(text)
        await expect(tiles.nth(2)).to_contain_text("of 2 tasks")
        await expect(tiles.nth(3)).to_contain_text("p50 250 ms, p99 40.0 s")
        # A band may have its tasks in two neighbouring columns.
        numbers: Counter[str] = Counter()
        for title in await page.locator(".heat-cell title").all_text_contents():
            tasks, _, band = title.split("\n")[1].partition(" ran ")
            numbers[band] += int(tasks)
        assert sorted(numbers.values()) == [2, 5, 40]
        # The same for those who hear it.
        await expect(page.get_by_role("table", name="Run times of 47 tasks")).to_contain_text(re.compile(r"\d+ ran "))
        slow = page.get_by_label("Slowest").locator("li")
        await expect(slow).to_have_count(10)
        await expect(slow.first).to_contain_text("40.0 s")
        await expect(slow.nth(2)).to_contain_text("1.50 s")
        failures = page.get_by_label("Failures")
        await expect(failures).to_contain_text("CardError")
        await expect(failures).to_contain_text("5 open of 5")
        options = page.get_by_label("Options")
        await expect(options).to_contain_text("Timeout1 m 30 s")
        await expect(options).to_contain_text("Queuemail")
        await expect(page.get_by_label("Objective")).to_contain_text("90 % in 30.0 s, over 30 d 0 h")
        await page.get_by_role("button", name="7d").click()
        await expect(tiles.first.locator("strong")).to_have_text("50")
        await expect(slow.first).to_contain_text("5 m 00 s")
        await slow.first.get_by_role("link").click()
        await expect(page.get_by_role("heading", name="pay")).to_be_visible()
        await page.go_back()
        await failures.get_by_role("link", name="CardError").click()
        await expect(page.locator(".failure")).to_contain_text("declined")
    # The browser complains about the 404 itself.
    async with shown("?view=type&name=nobody") as one:
        await expect(one.page.get_by_text("no task type 'nobody' is declared")).to_be_visible()
