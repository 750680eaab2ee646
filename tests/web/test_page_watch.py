"""What is wrong now is said first and in the tab, with the action that ends it; releases are marked on the charts."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, expect

from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.backends.pool import Pooled
from taskflow_otel.engine.losses import Losses
from taskflow_otel.engine.releases import key_of
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.testing.backends.samples import make_instance
from tests.managers import started
from tests.waiting import eventually
from tests.web.conftest import OpenPage, Served
from tests.web.house import INSTANCE, House, make_record

pytestmark = pytest.mark.browser


async def test_problems_are_said_first_with_their_number_in_the_tab_and_ended_there(
    opened: OpenPage, engine: House
) -> None:
    engine.put(make_record())
    engine.schedule("nightly")
    async with opened("?view=overview&window=1h", auth=("ops", "secret")) as page:
        await page.get_by_label("User name").fill("ops")
        await page.get_by_label("Password").fill("secret")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        await expect(page).to_have_title("Overview · Tasks")
        problems = page.get_by_role("region", name="Problems")
        await expect(problems).to_be_hidden()
        icon = page.locator("link[rel=icon]")

        await engine.manager.engine.queues.pause("mail", "ada", "the mail server is down")
        await engine.manager.engine.schedules.pause("nightly", "bob", "the disk is full")
        given = [engine.put(make_record("render", TaskStatus.PENDING, queue="video")) for _ in range(2)]
        pooled = [Pooled(one.task_id, "video", 5, "render", None, one.created_at, one.created_at) for one in given]
        await engine.backend.pool_store.give(INSTANCE, pooled)
        dead = make_instance("web-9-dead", state=InstanceState.DEAD.value, heartbeat_at=datetime.now(UTC))
        await engine.backend.beat(dead)
        await Losses(engine.backend).note({"web-9-dead": [make_record("charge", TaskStatus.RUNNING)]})
        for _ in range(3):
            engine.put(make_record("charge", TaskStatus.FAILED, age=30, error_type="CardError", error="declined"))
        await page.reload()
        rows = problems.locator("li")
        # The groups of failures were counted a moment ago, and are counted again with the next round.
        await expect(rows).to_have_count(5)
        await expect(rows.nth(0)).to_contain_text(
            re.compile("Instance web-9-dead died .*(now|ago), 1 running task interrupted")
        )
        unclaimed = "2 tasks wait in the pool for the queue video, and no living instance claims them"
        await expect(rows.nth(1)).to_have_text(unclaimed)
        await expect(rows.nth(2)).to_contain_text(
            re.compile("Queue mail paused .*(now|ago) by ada: the mail server is down")
        )
        await expect(rows.nth(3)).to_contain_text(
            re.compile("Schedule nightly paused .*(now|ago) by bob: the disk is full")
        )
        await expect(rows.nth(4)).to_contain_text("New: CardError in charge, 3 in the last hour")
        await expect(page).to_have_title("(5) Overview · Tasks")
        await expect(icon).to_have_attribute("href", "static/icon-5.svg")
        assert (await page.request.get(page.url.partition("dashboard")[0] + "static/icon-5.svg")).ok
        before = await page.evaluate("document.querySelector('.problems').previousElementSibling.className")
        assert before == "view-head"

        for number, name in ((4, "Queue mail"), (3, "Schedule nightly")):
            await rows.filter(has_text=name).get_by_role("button", name="Resume").click()
            await expect(rows).to_have_count(number)
            await expect(page).to_have_title(f"({number}) Overview · Tasks")
        assert not engine.queues["mail"].paused
        assert not engine.schedule_of("nightly").paused
        await rows.nth(2).get_by_role("link").click()
        await expect(page.locator(".failure")).to_contain_text("declined")
        await expect(page).to_have_title("(3) Failures · Tasks")


async def test_a_new_release_is_marked_on_the_charts_in_whose_time_it_was_first_seen(
    opened: OpenPage, engine: House
) -> None:
    now = datetime.now(UTC)
    for age, release in ((30, "1.5 <b>"), (4, "1.6"), (50 * 60, "1.4")):
        await engine.backend.put_setting(key_of(now - timedelta(minutes=age), "one"), release)
    record = engine.put(make_record("charge", TaskStatus.FAILED, age=60, error="declined"))
    async with opened("?view=overview&window=1h") as page:
        marks = page.locator(".mark")
        await expect(marks).to_have_count(2)
        await expect(marks.nth(0)).to_have_text("1.5 <b>")
        places = [float(await marks.nth(number).evaluate("mark => parseFloat(mark.style.left)")) for number in (0, 1)]
        # Half an hour ago, and 4 minutes ago, within a column of two minutes.
        assert [abs(place - right) < 5 for place, right in zip(places, (50, 94), strict=True)] == [True, True]
        await page.get_by_role("button", name="24h").click()
        await expect(marks).to_have_count(2)
        await page.goto(page.url.partition("?")[0] + f"?view=type&name={quote('charge')}&window=7d")
        await expect(page.get_by_label("Finished").locator(".mark-name")).to_have_text(["1.4", "1.5 <b>", "1.6"])
        await expect(page.get_by_label("Run times").locator(".mark")).to_have_count(3)
        await page.goto(page.url.partition("?")[0] + f"?view=failures&fingerprint={record.fingerprint}")
        await expect(page.locator(".failure .mark-name")).to_have_text(["1.5 <b>", "1.6"])


async def test_a_task_shows_the_release_that_ran_it_also_after_a_deployment(
    browser: Browser, serving: Callable[..., AbstractAsyncContextManager[Served]], tmp_path: Path
) -> None:
    def manager(release: str) -> TaskManager:
        made = TaskManager(snapshot_db=str(tmp_path / "tasks.db"), release=release)
        made.task(name="charge", persist=True)(charge)
        return made

    async def charge() -> None:
        """Do nothing."""

    before, app = manager("1.6"), FastAPI()
    async with started(before):
        task_id = await before.enqueue(charge)
        await before.wait(task_id, 20)

        async def known() -> bool:
            return bool(await before.engine.board.releases_of([before.engine.instance_id]))

        await eventually(known, "the first release")
    TaskAdmin(app, manager("1.7"))
    async with serving(app, lifespan="on") as served, httpx.AsyncClient(base_url=f"{served.url}/tasks") as client:

        async def seen() -> list[Any]:
            return [one["release"] for one in (await client.get("/releases")).json()]

        async def both() -> bool:
            return await seen() == ["1.6", "1.7"]

        await eventually(both, "the mark of the second release")
        task = (await client.get(f"/{task_id}")).json()
        assert task["releases"] == {task["instance"]: "1.6"}
        page = await browser.new_page()
        await page.goto(f"{served.url}/tasks/dashboard?view=task&id={task_id}")
        await page.locator(".attempt-row summary").first.click()
        await expect(page.locator(".attempt-body")).to_contain_text("release 1.6")
        await page.goto(f"{served.url}/tasks/dashboard?view=overview")
        await expect(page.locator(".mark-name").last).to_have_text("1.7")
