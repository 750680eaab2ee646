"""What went wrong, as the page shows it: failed, interrupted and rejected tasks, and instances that died."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from playwright.async_api import expect

from taskflow_otel.backends.pool import Pooled
from taskflow_otel.engine.losses import Losses
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState, Reason
from taskflow_otel.testing.backends.samples import make_instance
from tests.web.conftest import OpenPage
from tests.web.house import INSTANCE, House, make_record

pytestmark = pytest.mark.browser


async def test_interrupted_and_rejected_tasks_are_retried_as_groups(opened: OpenPage, engine: House) -> None:
    for _ in range(3):
        engine.put(make_record(status=TaskStatus.INTERRUPTED, reason=Reason.PROCESS_DIED.value))
    engine.put(make_record("other", status=TaskStatus.REJECTED, reason=Reason.QUEUE_FULL.value))
    engine.put(make_record(status=TaskStatus.REJECTED, reason=Reason.DUPLICATE.value))
    async with opened("?view=failures") as page:
        await expect(page.get_by_text("2 groups, 4 open")).to_be_visible()
        group = page.locator(".group").filter(has_text="Its process died")
        await expect(group).to_contain_text("3 / 3")
        await group.click()
        await page.get_by_role("button", name="Retry 3 open").click()
        await page.get_by_label("Reason").fill("the machine is back")
        await page.get_by_role("button", name="Retry them").click()
        await expect(page.get_by_text("3 tasks enqueued again")).to_be_visible()
        await expect(group).to_contain_text("0 / 3")
        await expect(page.get_by_text("2 groups, 1 open")).to_be_visible()
        await page.goto(page.url.partition("?")[0] + "?view=audit")
        await expect(page.get_by_text("the machine is back")).to_be_visible()
    assert sum(record.source == "retry" for record in engine.records.values()) == 3


async def test_a_dead_instance_shows_what_it_was_doing(opened: OpenPage, engine: House) -> None:
    now = datetime.now(UTC)
    dead = make_instance("died-here", state=InstanceState.DEAD.value, heartbeat_at=now)
    await engine.backend.beat(dead)
    lost = engine.put(make_record("charge_card", TaskStatus.RUNNING))
    await Losses(engine.backend).note({"died-here": [lost, make_record(status=TaskStatus.PENDING)]})
    async with opened("?view=instances") as page:
        row = page.get_by_role("row").filter(has_text="died-here")
        await expect(row).to_contain_text("1 running task")
        await expect(row).to_contain_text("1 waiting task moved to others")
        await row.get_by_role("link").click()
        await expect(page.get_by_role("heading", name="charge_card")).to_be_visible()


async def test_failures_of_a_window_are_those_that_ended_in_it(opened: OpenPage, engine: House) -> None:
    # Created long ago and failed just now; created and failed long ago; and some in between.
    engine.put(make_record("long_one", TaskStatus.FAILED, age=9_000, duration=8_990.0, error="late"))
    for number in range(9):
        engine.put(make_record(f"short_{number}", TaskStatus.FAILED, age=100 + number, duration=1.0, error="early"))
    engine.put(make_record("old", TaskStatus.FAILED, age=9_000, duration=1.0, error="long past"))
    async with opened("?view=failures&since=1h") as page:
        await expect(page.get_by_text("10 groups, 10 open")).to_be_visible()
        await page.locator(".group").filter(has_text="late").click()
        await page.locator(".failure").get_by_role("link", name="1 task").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody tr")).to_contain_text("long_one")
        await page.get_by_role("link", name="Overview").click()
        latest = page.locator("section").filter(has_text="Latest failures").locator("tbody tr")
        await expect(latest).to_have_count(8)
        await expect(latest.first).to_contain_text("long_one")
        engine.put(make_record("newest", TaskStatus.FAILED, age=5_000, duration=4_999.0))
        await expect(latest.first).to_contain_text("newest")
        await expect(latest).to_have_count(8)


async def test_a_queue_that_no_instance_declares_says_that_its_tasks_wait_and_offers_nothing_to_change(
    opened: OpenPage, engine: House
) -> None:
    given = [engine.put(make_record("render", TaskStatus.PENDING, queue="video")) for _ in range(2)]
    tasks = [
        Pooled(one.task_id, one.queue, one.priority, one.func_name, None, one.created_at, one.created_at)
        for one in given
    ]
    await engine.backend.pool_store.give(INSTANCE, tasks)
    async with opened("?view=queues") as page:
        card = page.locator("article").filter(has_text="video")
        await expect(card).to_contain_text("No living instance declares this queue: 2 tasks wait in the pool")
        await expect(card.get_by_role("button")).to_have_count(0)
        other = page.locator("article").filter(has_text="mail")
        await expect(other.get_by_role("button", name="Pause")).to_be_visible()
        await expect(other.get_by_role("alert")).to_have_count(0)
        await page.get_by_role("link", name="Overview").click()
        problem = page.get_by_role("region", name="Problems").get_by_role("link")
        await expect(problem).to_contain_text("2 tasks wait in the pool for the queue video")
        await expect(page).to_have_title("(1) Overview · Tasks")
        await problem.click()
        await expect(card).to_be_visible()
