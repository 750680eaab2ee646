"""One task on the page: its log, its times, and where it ran."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from playwright.async_api import expect

from taskflow_otel.backends.base import AppendLogs
from taskflow_otel.model.record import LogEntry, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from tests.web.conftest import OpenPage
from tests.web.house import INSTANCE, House, make_record

pytestmark = pytest.mark.browser


async def test_the_log_of_a_task_of_another_instance_follows_with_its_fields(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.RUNNING, age=1))

    async def write(number: int) -> None:
        # In the ledger alone: the stream of this instance never tells it.
        entry = LogEntry(number, datetime.now(UTC), "info", f"line {number}", 0, {"order": 40 + number})
        await engine.backend.apply([AppendLogs(record.task_id, (entry,))])

    await write(0)
    async with opened(f"?view=task&id={record.task_id}") as page:
        log = page.get_by_role("log")
        await expect(log).to_contain_text("line 0")
        await write(1)
        await write(2)
        await expect(log).to_contain_text("line 2")
        await expect(log).to_contain_text("order=42")
        record.status = TaskStatus.SUCCESS
        engine.put(record)
        await expect(page.get_by_role("button", name="Run again")).to_be_visible()
        await write(3)
        await expect(log).to_contain_text("line 3")
        await expect(page.locator(".log")).to_have_count(4)


async def test_a_line_of_the_stream_has_its_fields_and_what_was_seen_is_not_frozen(
    opened: OpenPage, engine: House
) -> None:
    record = engine.put(make_record(status=TaskStatus.RUNNING, age=1))
    async with opened(f"?view=task&id={record.task_id}") as page:
        await expect(page.get_by_role("heading", name="Log", exact=True)).to_be_visible()
        engine.log(record, "charged", order=782)
        await expect(page.get_by_role("log")).to_contain_text("order=782")
        # The owner changes while the state stays.
        [taken] = await engine.backend.take_over([INSTANCE], "another-one", None, 10)
        engine.stream.inject(taken)
        await expect(page.locator(".facts")).to_contain_text("another-one")


async def test_a_log_is_read_from_a_line_on(client: httpx.AsyncClient, engine: House) -> None:
    record = engine.put(make_record())
    for number in range(3):
        engine.log(record, f"line {number}")
    found = (await client.get(f"/tasks/{record.task_id}?logs_after=0")).json()
    assert [line["message"] for line in found["logs"]] == ["line 1", "line 2"]


async def test_the_run_time_is_the_same_number_everywhere(opened: OpenPage, engine: House) -> None:
    # The wall clock was set while it ran: the moments say 9 seconds, the measured time is 2.5 seconds.
    record = make_record(duration=9.0, age=60)
    record.duration = 2.5
    engine.put(record)
    async with opened("?view=tasks") as page:
        row = page.get_by_role("row").filter(has_text="send_email")
        await expect(row.locator(".took")).to_have_text("2.50 s")
        await row.get_by_role("link").click()
        await expect(page.locator(".facts")).to_contain_text("2.50 s")
        await expect(page.locator(".lane-took").first).to_have_text("ran 2.50 s")


async def test_the_instance_of_an_attempt_is_the_one_that_ran_it(opened: OpenPage, engine: House) -> None:
    record = make_record(status=TaskStatus.INTERRUPTED)
    ended = record.end_time or record.created_at
    record.timeline = (
        *record.timeline[:2],
        TimelineEntry(Transition.INTERRUPTED, ended, 0, "the-survivor", "process_died"),
    )
    record.instance = "the-survivor"
    engine.put(record)
    async with opened(f"?view=task&id={record.task_id}") as page:
        facts = page.locator(".facts")
        await expect(facts.locator("div").filter(has_text="Ran on")).to_contain_text(INSTANCE)
        await expect(facts.locator("div").filter(has_text="Owner")).to_contain_text("the-survivor")
        await expect(page.locator(".events li").last).to_contain_text(f"ran on {INSTANCE}, noted by the-survivor")
        await expect(page.locator(".lane-took").first).to_have_attribute("title", f"ran on {INSTANCE}")


async def test_a_task_that_waits_for_its_time_starts_not_before_it(opened: OpenPage, engine: House) -> None:
    record = make_record(status=TaskStatus.PENDING, run_at=datetime.now(UTC) + timedelta(hours=2))
    engine.put(record)
    async with opened(f"?view=task&id={record.task_id}") as page:
        await expect(page.locator(".task-head")).to_contain_text("not before")
