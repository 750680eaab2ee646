"""One task on the page: its log, its times, and where it ran."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from playwright.async_api import Route, expect

from taskflow_otel import get_task_context, task_log
from taskflow_otel.backends.base import AppendLogs
from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.record import LogEntry, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from tests.waiting import eventually
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
        written = asyncio.Event()

        async def hold(route: Route) -> None:
            await written.wait()
            await route.continue_()

        # What is asked for after the end of the task is answered once its last line is stored.
        await page.route("**/*logs_after=*", hold)
        record.status = TaskStatus.SUCCESS
        engine.put(record)
        await expect(page.get_by_role("button", name="Run again")).to_be_visible()
        await write(3)
        written.set()
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
        await expect(page.locator(".sentence")).to_have_text(re.compile(r"^Waiting for \d+ m \d\d s · .*not before"))


async def fail_each_attempt(order: int) -> None:
    """Fail in each attempt in another way."""
    context = get_task_context()
    assert context is not None
    task_log(f"attempt {context.attempt} begins", order=order)
    task_log("nearly done", level="warning")
    raise (OSError if context.attempt == 0 else KeyError)(f"order {order}")


async def test_a_failed_task_reads_from_a_sentence_to_its_attempts_and_each_opens_to_its_own_error(
    opened: OpenPage, engine: House
) -> None:
    manager = engine.manager
    manager.task(name="fail_each_attempt", retries=2, delay=0.01)(fail_each_attempt)
    record = await manager.wait(await manager.enqueue(fail_each_attempt, 7), 20)
    assert [one.error_type for one in record.failures] == ["OSError", "KeyError", "KeyError"]
    async with opened(f"?view=task&id={record.task_id}", display_func_args=True) as page:
        await expect(page.locator(".sentence")).to_contain_text("after 3 attempts")
        await expect(page.locator(".beside .error .cause-error")).to_contain_text("KeyError: 'order 7'")
        await expect(page.locator(".beside").get_by_role("heading", name="Arguments")).to_be_visible()
        attempts = page.locator(".attempt-row")
        await expect(attempts).to_have_count(3)
        await expect(attempts.first.locator("summary")).to_contain_text("OSError: order 7")
        await attempts.first.locator("summary").click()
        body = attempts.first.locator(".attempt-body")
        await expect(body).to_contain_text("The next attempt was planned for")
        await expect(body).to_contain_text("fail_each_attempt")
        await expect(body.locator(".attempt-line").first).to_contain_text("attempt 0 begins")
        # The newest failure is open, and its error is not said a second time.
        newest = attempts.last.locator(".attempt-body")
        await expect(newest.locator(".attempt-line").last).to_have_text(re.compile("nearly done$"))
        await expect(newest.locator(".cause-error")).to_have_count(0)
        await expect(page.locator(".error .error-text")).to_have_count(0)
        log = page.get_by_role("log")
        await expect(log.locator(".log:visible")).to_have_count(6)
        await page.get_by_label("Level").select_option("warning")
        await expect(log.locator(".log:visible")).to_have_count(3)
        await page.get_by_label("Level").select_option("debug")
        await page.get_by_label("Text in the log").fill("attempt 2")
        await expect(log.locator(".log:visible")).to_have_count(1)
        await expect(page.get_by_text("5 hidden")).to_be_visible()
        text = log.locator(".log-text").last
        for wraps, space in ((False, "pre"), (True, "pre-wrap")):
            await page.get_by_label("Wrap").set_checked(wraps)
            await expect(text).to_have_css("white-space", space)
        async with page.expect_download() as saved:
            await page.get_by_role("button", name="Download").click()
        path = await (await saved.value).path()
        assert path.read_text().count("nearly done") == 3
        await page.get_by_role("link", name="Its group").click()
        await expect(page.locator(".failure").get_by_role("button", name="Retry 1 open")).to_be_visible()


async def test_a_success_is_run_again_after_a_question_and_one_that_was_retried_says_so(
    opened: OpenPage, engine: House
) -> None:
    done = engine.put(make_record())
    async with opened(f"?view=task&id={done.task_id}") as page:
        await page.get_by_role("button", name="Run again…").click()
        await page.get_by_role("button", name="Back").click()
        assert len(engine.records) == 1
        await page.get_by_role("button", name="Run again…").click()
        await page.get_by_label("Reason").fill("the mail was lost")
        await page.get_by_role("button", name="Run it again").click()
        await expect(page.get_by_text("Retry of")).to_be_visible()
        await page.goto(f"{page.url.partition('?')[0]}?view=task&id={done.task_id}")
        await expect(page.get_by_text("Retried as")).to_be_visible()
        await expect(page.get_by_role("button", name="Run again")).to_have_count(0)
        await page.goto(f"{page.url.partition('?')[0]}?view=audit")
        await expect(page.get_by_text("the mail was lost")).to_be_visible()


async def test_an_attempt_that_its_reader_closed_stays_closed_until_the_next_one_fails(
    opened: OpenPage, engine: House
) -> None:
    began = datetime.now(UTC) - timedelta(seconds=9)
    record = make_record(status=TaskStatus.RUNNING, age=10)
    engine.put(record)
    engine.log(record, "first line")
    async with opened(f"?view=task&id={record.task_id}") as page:
        attempts = page.locator(".attempt-row")
        await expect(attempts).to_have_count(1)
        await expect(attempts).not_to_have_attribute("open", "")
        failed = AttemptFailure(0, "f", "OSError", "no answer", retry_at=datetime.now(UTC) + timedelta(hours=1))
        record.status, record.failures, record.error_type, record.error = (
            TaskStatus.PENDING,
            (failed,),
            "OSError",
            "no answer",
        )
        record.timeline = (*record.timeline, TimelineEntry(Transition.RETRY_SCHEDULED, began, 0, INSTANCE))
        engine.put(record)
        await expect(attempts.first).to_have_attribute("open", "")
        await expect(attempts.first).to_contain_text(re.compile(r"The next attempt is planned in 5\d min\."))
        await attempts.first.locator("summary").click()
        engine.log(record, "second line")
        await expect(attempts.first).to_contain_text("second line")
        await expect(attempts.first).not_to_have_attribute("open", "")
        again = TimelineEntry(Transition.STARTED, began + timedelta(seconds=1), 1, INSTANCE)
        ended = TimelineEntry(Transition.FAILED, began + timedelta(seconds=2), 1, INSTANCE)
        record.status, record.attempt, record.end_time = TaskStatus.FAILED, 1, ended.timestamp
        record.failures = (failed, AttemptFailure(1, "g", "KeyError", "42"))
        record.timeline = (*record.timeline, again, ended)
        engine.put(record)
        await expect(attempts).to_have_count(2)
        await expect(attempts.last).to_have_attribute("open", "")
        await expect(attempts.first).not_to_have_attribute("open", "")


async def test_the_log_of_a_running_task_is_followed_as_long_as_its_reader_wants(
    opened: OpenPage, engine: House
) -> None:
    record = engine.put(make_record(status=TaskStatus.RUNNING, age=1))
    for number in range(60):
        engine.log(record, f"line {number}")
    async with opened(f"?view=task&id={record.task_id}") as page:
        sentence = page.locator(".sentence")
        await expect(sentence).to_have_text(re.compile(r"^Running for .* s, attempt 1$"))
        begun = await sentence.inner_text()
        log = page.get_by_role("log")
        rest = "(element) => element.scrollHeight - element.scrollTop - element.clientHeight"

        async def at_end() -> bool:
            return bool(await log.evaluate(rest) < 1)

        await eventually(at_end, "the last line")
        engine.log(record, "line 60")
        await expect(log.locator(".log")).to_have_count(61)
        await eventually(at_end, "the next line")
        await page.get_by_label("Follow").uncheck()
        await page.get_by_label("Text in the log").fill("line 6")
        await expect(page.get_by_text("59 hidden")).to_be_visible()
        engine.log(record, "line 7")
        await expect(page.get_by_text("60 hidden")).to_be_visible()
        await page.get_by_label("Text in the log").fill("")
        await log.evaluate("(element) => { element.scrollTop = element.scrollHeight; }")
        engine.log(record, "line 8")
        await expect(log.locator(".log")).to_have_count(63)
        assert not await at_end()
        await page.get_by_label("Follow").check()
        await eventually(at_end, "the end again")
        await expect(sentence).not_to_have_text(begun)
