"""What people do with tasks on the page, and the trace that it leaves: who, why, with which arguments, how far."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from playwright.async_api import expect

from taskflow_otel import task_log
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.operation import OperationItem
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.admin import make_operation
from tests.managers import WAIT, Gate, finish
from tests.web.conftest import OpenPage, ShowPage
from tests.web.house import INSTANCE, House, make_record
from tests.web.users import USER

pytestmark = pytest.mark.browser


async def greet(name: str, times: int = 1) -> None:
    """Write whom it greets."""
    task_log(f"hello {name} × {times}")


async def decline(order: int) -> None:
    """Fail."""
    raise LookupError(f"order {order} declined")


async def test_the_log_of_a_task_elsewhere_is_a_link_for_the_time_of_the_task(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(age=60, wait=0, duration=0.5))
    pattern = "https://logs.test/q?task={task_id}&trace={trace_id}&from={from}&to={to}&app={app}"
    async with opened(f"?view=task&id={record.task_id}", log_url=pattern) as page:
        began = int(record.created_at.timestamp() * 1000)
        link = page.get_by_role("link", name="Log elsewhere")
        await expect(link).to_have_attribute(
            "href",
            re.compile(
                rf"^https://logs\.test/q\?task={record.task_id}&trace={'a' * 32}"
                rf"&from={began}&to={began + 60_500}&app=\{{app\}}$"
            ),
        )
        await expect(link).to_have_attribute("rel", "noopener noreferrer")
    untraced = engine.put(make_record(status=TaskStatus.PENDING))
    async with opened(f"?view=task&id={untraced.task_id}", log_url="https://logs.test/{trace_id}") as page:
        await expect(page.get_by_role("heading", name="Log", exact=True)).to_be_visible()
        await expect(page.get_by_role("link", name="Log elsewhere")).to_have_count(0)


async def test_the_stack_of_a_running_task_is_asked_for_and_shown(opened: OpenPage, engine: House) -> None:
    gate = Gate()

    async def holds_the_gate() -> None:
        await gate.run()

    engine.manager.task(name="holder")(holds_the_gate)
    task_id = await engine.manager.enqueue(holds_the_gate)
    await gate.entered.wait()
    async with opened(f"?view=task&id={task_id}") as page:
        await page.get_by_role("button", name="Where is it?").click()
        card = page.get_by_role("region", name="Stacks")
        await expect(card.locator("summary")).to_contain_text("in run")
        await expect(card.locator("summary")).to_contain_text("asked for")
        await expect(card.locator(".frame").filter(has_text="in holds_the_gate")).to_be_visible()
        # The log has it folded, and not as a field among others.
        line = page.get_by_role("log").locator(".log").first
        await expect(line).to_contain_text(re.compile(r"\d+ frames"))
        await expect(line).not_to_contain_text("stack=")
        # A second one is the open one, and the first is kept.
        await page.get_by_role("button", name="Where is it?").click()
        await expect(card.locator("details.stack")).to_have_count(2)
        await expect(card.locator("details.stack[open]")).to_have_count(1)
        gate.opened.set()
        await expect(page.get_by_role("button", name="Where is it?")).to_have_count(0)
        await expect(card.locator("details.stack")).to_have_count(2)
        await expect(page.locator(".events .person").first).to_contain_text("stack asked for")


async def test_a_task_runs_again_with_other_arguments_after_the_annotations_were_checked(
    shown: ShowPage, engine: House
) -> None:
    engine.manager.task()(greet)
    first = await finish(engine.manager, await engine.manager.enqueue(greet, "Ada", times=2))
    async with shown(f"?view=task&id={first.task_id}", display_func_args=True) as one:
        page = one.page
        await page.get_by_role("button", name="Run again…").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_label("name")).to_have_value('"Ada"')
        await expect(dialog).to_contain_text("times: int")
        await dialog.get_by_label("name").fill("Bob")
        await dialog.get_by_role("button", name="Run it again").click()
        await expect(dialog.get_by_role("alert")).to_have_text('name is not JSON: write a text in quotes, as "Ada".')
        await dialog.get_by_label("name").fill('"Bob"')
        await dialog.get_by_label("times").fill('"3"')
        await dialog.get_by_role("button", name="Run it again").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("annotation int")
        await dialog.get_by_label("times").fill("3")
        await dialog.get_by_label("Reason").fill("greeted the wrong one")
        await dialog.get_by_role("button", name="Run it again").click()
        await expect(page.get_by_role("log")).to_contain_text("hello Bob × 3")
        # The new task says who made it and why, the old one what was made of it.
        await expect(page.locator(".events li").first).to_contain_text("by someone (no login): greeted the wrong one")
        await page.locator(".facts").get_by_role("link", name=first.task_id[-8:]).click()
        await expect(page.get_by_text("Retried as")).to_be_visible()
        told = page.locator(".events .person")
        await expect(told.first).to_contain_text("refused")
        await expect(told.last).to_contain_text("with another name, another times")
        assert len(engine.stored_ids()) == 2
        # The browser itself notes the refusal.
        assert [text for text in one.complaints if "422" not in text] == []


async def test_the_timeline_says_who_cancelled_a_task_and_who_paused_its_queue(opened: OpenPage, engine: House) -> None:
    engine.manager.task(queue="mail")(greet)
    await engine.manager.pause_queue("mail")
    await engine.manager.resume_queue("mail")
    async with opened("?view=queues", auth=USER) as page:
        await page.get_by_label("User name").fill(USER[0])
        await page.get_by_label("Password").fill(USER[1])
        await page.get_by_role("button", name="Log in").click()
        card = page.locator("article").filter(has_text="mail")
        waiting = await engine.manager.enqueue(greet, "Ada", run_at=datetime(2100, 1, 1, tzinfo=UTC))
        await card.get_by_role("button", name="Pause").click()
        await page.get_by_label("Reason").fill("the mail server is down")
        await page.get_by_role("button", name="Pause the queue").click()
        await expect(card.get_by_text("paused", exact=True)).to_be_visible()
        await expect(card.locator(".paused-by")).to_have_text(re.compile("^Paused by ada .*: the mail server is down$"))
        await page.goto(f"{page.url.partition('?')[0]}?view=task&id={waiting}")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_label("Reason").fill("not needed")
        await page.get_by_role("button", name="Cancel the task").click()
        events = page.locator(".events li")
        await expect(events.filter(has_text="cancelled")).to_contain_text("by ada: not needed")
        await expect(events.filter(has_text="queue paused")).to_contain_text("by ada: the mail server is down")
        # The audit has all of it, and finds it by its filters.
        await page.goto(f"{page.url.partition('?')[0]}?view=audit")
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(3)
        await page.get_by_label("Action").select_option("cancel-task")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("not needed")
        await page.get_by_label("Action").select_option("")
        await page.get_by_label("Task id").fill(waiting)
        await expect(rows).to_have_count(1)
        await page.get_by_label("Task id").fill("")
        await page.get_by_label("User").fill("nobody")
        await expect(page.get_by_text("Nothing yet")).to_be_visible()


async def test_an_operation_of_another_instance_is_followed_to_its_end(opened: OpenPage, engine: House) -> None:
    store = engine.backend.operation_store
    begun = make_operation(owner=INSTANCE, created_at=datetime.now(UTC), actor="bob", total=4)
    items = [OperationItem(seq=number, task_id=new_task_id()) for number in range(4)]
    await store.begin(begun)
    await store.save(begun, items)
    async with opened(f"?view=operation&id={begun.operation_id}") as page:
        bar = page.get_by_role("progressbar")
        await expect(bar).to_have_attribute("aria-valuenow", "0")
        await expect(page.get_by_text("not yet")).to_have_count(4)
        refused = replace(items[0], outcome="refused", detail="it runs still")
        halfway = replace(begun, done=2, succeeded=1)
        await store.save(halfway, [refused, replace(items[1], outcome="done")])
        await expect(bar).to_have_attribute("aria-valuenow", "2")
        await expect(page.get_by_text("it runs still")).to_be_visible()
        failed = replace(halfway, status="failed", error="the backend refuses a value", ended_at=datetime.now(UTC))
        await store.save(failed, [])
        await expect(page.get_by_role("alert")).to_have_text("the backend refuses a value")
        await expect(page.locator(".sentence")).to_contain_text("Asked for by bob")


async def test_work_on_many_tasks_is_a_record_with_its_progress_and_the_result_for_each(
    opened: OpenPage, engine: House
) -> None:
    engine.manager.task()(decline)
    for order in range(3):
        await finish(engine.manager, await engine.manager.enqueue(decline, order))
    async with opened("?view=failures") as page:
        await page.get_by_role("button", name="Retry 3 open").click()
        await page.get_by_label("Reason").fill("the bank is back")
        await page.get_by_role("button", name="Retry them").click()
        await page.get_by_role("link", name="Show").click()
        await expect(page.get_by_role("heading", name="Retry 3 tasks")).to_be_visible()
        await expect(page.locator(".sentence")).to_contain_text("someone (no login)")
        await expect(page.locator(".sentence")).to_contain_text("the bank is back · 3 done")
        await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "3")
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(3)
        await expect(page.locator("tbody .pill[data-status=success]")).to_have_count(3)
        new = await rows.first.get_by_role("link").nth(1).get_attribute("title")
        assert new is not None
        await engine.manager.wait(new, WAIT)
        await rows.first.get_by_role("link").nth(1).click()
        await expect(page.locator(".events li").first).to_contain_text("in a bulk operation: the bank is back")
        await page.locator(".events li").first.get_by_role("link").click()
        await page.get_by_role("link", name="Bulk operations").click()
        await expect(page.locator("tbody tr")).to_contain_text("3 of 3")
        await page.get_by_role("link", name="Audit").last.click()
        await page.locator("tbody tr").filter(has_text="bulk-retry").get_by_role("link").click()
        await expect(page.get_by_role("heading", name="Retry 3 tasks")).to_be_visible()
