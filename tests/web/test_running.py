"""What runs now: all of it, the longest first, beside what is usual for its type."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.async_api import expect

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web import running
from tests.web.conftest import OpenPage
from tests.web.house import House, make_record


async def test_the_longest_running_tasks_come_first_however_many_run(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MAX_PAGE", 10)
    # The one that has run longest was created last, so it is on the last page of no list.
    for number in range(35):
        engine.keep(make_record(status=TaskStatus.RUNNING, age=100 + number, wait=number))
    longest = engine.keep(make_record(status=TaskStatus.RUNNING, age=500, wait=0))
    engine.keep(make_record(status=TaskStatus.PENDING, age=900))
    found = (await client.get("/tasks/running?limit=3")).json()
    assert (found["total"], found["exact"], found["tasks"][0]["task_id"]) == (36, True, longest.task_id)
    starts = [task["start_time"] for task in found["tasks"]]
    assert starts == sorted(starts)
    assert len(starts) == 3
    assert found["tasks"][0].get("args") is None


async def test_what_is_usual_is_the_95th_percentile_of_the_successes_of_a_day(
    client: httpx.AsyncClient, engine: House
) -> None:
    for number in range(40):
        engine.keep(make_record("report", duration=2.0 if number < 36 else 6.0, age=600))
        # Failures say nothing of how long the work takes, and neither do few successes.
        engine.keep(make_record("report", TaskStatus.FAILED, duration=90.0, age=600))
    for _ in range(19):
        engine.keep(make_record("send", age=600))
    for name in ("report", "send"):
        engine.keep(make_record(name, TaskStatus.RUNNING, age=20))
    assert (await client.get("/tasks/running")).json()["p95_seconds"] == {"report": pytest.approx(6.0)}


async def test_more_than_can_be_read_are_a_lower_bound(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MAX_PAGE", 5)
    monkeypatch.setattr(running, "COUNT_LIMIT", 10)
    for _ in range(12):
        engine.keep(make_record(status=TaskStatus.RUNNING))
    found = (await client.get("/tasks/running")).json()
    assert (found["total"], found["exact"]) == (10, False)


@pytest.mark.browser
async def test_running_tasks_are_shown_longest_first_with_a_badge_against_their_type(
    opened: OpenPage, engine: House
) -> None:
    for _ in range(20):
        engine.keep(make_record("report", duration=100.0, age=600))
    engine.put(make_record("report", TaskStatus.RUNNING, age=5))
    engine.put(make_record("send", TaskStatus.RUNNING, age=900))
    slow = engine.put(make_record("report", TaskStatus.RUNNING, age=450))
    async with opened("") as page:
        rows = page.locator(".running-rows tbody tr")
        await expect(rows).to_have_count(3)
        await expect(rows.locator(".row-link")).to_have_text(["send", "report", "report"])
        await expect(rows.nth(1).locator(".badge")).to_have_text(re.compile(r"^[45]\.\d× p95$"))
        await expect(rows.nth(0).locator(".badge")).to_be_hidden()
        await expect(rows.nth(2).locator(".badge")).to_be_hidden()
        # A new one comes last, and one that has ended leaves.
        engine.put(make_record("other", TaskStatus.RUNNING, age=1))
        await expect(rows.last.locator(".row-link")).to_have_text("other")
        slow.status = TaskStatus.SUCCESS
        engine.put(slow)
        await expect(rows).to_have_count(3)
        await page.get_by_role("link", name="See all").first.click()
        await expect(page.get_by_role("heading", name="Running")).to_be_visible()
        await expect(page.locator("tbody tr").first).to_contain_text("send")
        await expect(page.get_by_text("3 in all")).to_be_visible()
