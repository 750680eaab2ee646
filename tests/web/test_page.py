"""The live page in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated
from urllib.parse import urlencode

import httpx
import pytest
from fastapi import BackgroundTasks, Cookie, FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse
from playwright.async_api import Browser, Route, expect

from taskflow_otel import TaskAdmin, TaskManager, task_log
from taskflow_otel.exporters.stream import LiveStream
from taskflow_otel.model.record import Progress
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.admin import make_entry
from taskflow_otel.web import fleet_api, tasks_api
from tests.managers import Gate
from tests.waiting import eventually
from tests.web.conftest import OpenPage, Served, is_read
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)></script><b>bold</b>"
NARROWEST_GAP = """() => {
    const boxes = [...document.querySelectorAll("nav a span")].map((name) => name.getBoundingClientRect());
    return Math.min(...boxes.slice(1).map((box, before) => box.left - boxes[before].right));
}"""
# Chromium throttles nothing here; the page only believes that nobody looks.
SET_HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.mark.parametrize("prefix", ["", "/behind/proxy"])
async def test_a_task_appears_without_reload_and_its_failure_shows_the_traceback(
    opened: OpenPage, engine: House, prefix: str
) -> None:
    async with opened("?view=tasks", prefix=prefix) as page:
        await expect(page.get_by_text("Nothing matches")).to_be_visible()
        record = engine.put(make_record("charge_card", TaskStatus.RUNNING, age=0))
        row = page.get_by_role("row").filter(has_text="charge_card")
        await expect(row).to_contain_text("running")
        record.status, record.error_type, record.error = TaskStatus.FAILED, "CardError", "declined"
        record.stacktrace = "Traceback (most recent call last):\nCardError: declined"
        engine.put(record)
        await expect(row).to_contain_text("failed")
        await row.get_by_role("link").click()
        await page.get_by_text("The whole traceback").click()
        await expect(page.get_by_label("Traceback", exact=True)).to_contain_text(
            "CardError: declined", use_inner_text=True
        )


async def test_a_change_touches_the_row_of_its_task_and_no_other(opened: OpenPage, engine: House) -> None:
    records = [engine.put(make_record(status=TaskStatus.RUNNING)) for _ in range(5)]
    async with opened("?view=tasks") as page:
        await expect(page.locator("tbody tr")).to_have_count(5)
        await page.evaluate("""() => {
            window.touched = new Set();
            for (const row of document.querySelectorAll("tbody tr")) {
                new MutationObserver(() => touched.add(row.dataset.id)).observe(
                    row.querySelector(".status"),
                    { childList: true, subtree: true, characterData: true, attributes: true },
                );
            }
            window.added = 0;
            new MutationObserver((changes) => changes.forEach((change) => (added += change.addedNodes.length)))
                .observe(document.querySelector("tbody"), { childList: true });
        }""")
        records[2].status = TaskStatus.SUCCESS
        engine.put(records[2])
        engine.put(make_record("newest"))
        await expect(page.locator("tbody tr").first).to_contain_text("newest")
        assert await page.evaluate("[...touched]") == [records[2].task_id]
        assert await page.evaluate("added") == 1


async def test_names_errors_tags_and_logs_are_shown_and_never_executed(opened: OpenPage, engine: House) -> None:
    record = make_record(HOSTILE, TaskStatus.FAILED, error=HOSTILE, error_type=HOSTILE, stacktrace=HOSTILE)
    record.tags, record.queue, record.idempotency_key = {HOSTILE: HOSTILE}, HOSTILE, HOSTILE
    engine.put(record)
    engine.log(record, HOSTILE, detail=HOSTILE)
    for view in ("tasks", "failures", f"task&id={record.task_id}"):
        async with opened(f"?view={view}", title=HOSTILE) as page:
            await expect(page.get_by_text("<b>bold</b>").first).to_be_visible()
            # The page has bold words of its own. What counts is what the hostile text would become.
            await is_read(page)
            await expect(page.locator("img[src=x], b:text-is('bold')")).to_have_count(0)
            if view.startswith("task&"):
                engine.log(record, "live " + HOSTILE)
                await expect(page.get_by_role("log")).to_contain_text("live <img")
                await expect(page.locator("img[src=x], b:text-is('bold')")).to_have_count(0)


async def test_filters_live_in_the_address(opened: OpenPage, engine: House) -> None:
    engine.put(make_record("alpha", TaskStatus.FAILED))
    engine.put(make_record("beta"))
    async with opened("?view=tasks&status=failed") as page:
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.get_by_role("button", name="all").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.get_by_label("Search").fill("beta")
        await expect(page.locator("tbody tr")).to_have_count(1)
        assert page.url.endswith("?view=tasks&q=beta")
        engine.put(make_record("gamma"))
        engine.put(make_record("beta_two"))
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.reload()
        await expect(page.get_by_label("Search")).to_have_value("beta")
        await page.locator("tbody tr a").first.click()
        await expect(page.get_by_role("heading", name="beta_two")).to_be_visible()
        await page.go_back()
        await expect(page.locator("tbody tr")).to_have_count(2)


async def test_the_list_shows_one_page_at_a_time_and_back_leads_to_it_again(opened: OpenPage, engine: House) -> None:
    records = [engine.put(make_record(f"task_{number}")) for number in range(130)]
    async with opened("?view=tasks") as page:
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(100)
        # A new task takes the place of the last one, which is then the first of the next page.
        engine.put(make_record("newest", age=0))
        await expect(rows.first).to_contain_text("newest")
        await expect(rows).to_have_count(100)
        await page.get_by_role("button", name="Older").click()
        await expect(rows).to_have_count(31)
        await expect(rows.first).to_contain_text(records[30].func_name)
        await expect(page.get_by_role("button", name="Older")).to_be_hidden()
        engine.put(make_record("another", age=0))
        await rows.last.get_by_role("link").click()
        await expect(page.get_by_role("heading", name="task_0")).to_be_visible()
        await page.go_back()
        await expect(rows).to_have_count(31)
        await page.get_by_role("button", name="Newer").click()
        await expect(rows.first).to_contain_text("another")
        await expect(rows).to_have_count(100)


async def test_a_number_that_was_not_counted_to_its_end_has_a_plus(
    opened: OpenPage, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (fleet_api, tasks_api):
        monkeypatch.setattr(module, "COUNT_LIMIT", 3)
    for number in range(5):
        engine.put(make_record(queue="mail" if number else "other"))
    async with opened("?view=tasks") as page:
        await expect(page.get_by_text("3+ tasks")).to_be_visible()
        await expect(page.get_by_role("button", name="all")).to_contain_text("3+")
        await page.get_by_label("Search").fill("queue:other")
        await expect(page.get_by_text("1 task", exact=True)).to_be_visible()


async def test_a_search_that_ended_early_says_so_and_continues_on_demand(opened: OpenPage, engine: House) -> None:
    engine.backend.window = 2
    engine.put(make_record("needle"))
    for _ in range(3):
        engine.put(make_record())
    async with opened("?view=tasks&q=needle") as page:
        await expect(page.get_by_text("No match among the newest tasks")).to_be_visible()
        await expect(page.get_by_text("Nothing matches")).to_be_hidden()
        await expect(page.get_by_text("0+ tasks")).to_be_visible()
        await page.get_by_role("button", name="Older").click()
        await expect(page.get_by_role("row").filter(has_text="needle")).to_be_visible()
        await expect(page.get_by_text("No match among the newest tasks")).to_be_hidden()


async def test_a_hidden_page_costs_nothing_and_misses_nothing(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.RUNNING))
    async with opened("?view=tasks") as page:
        await expect(page.locator("tbody tr")).to_contain_text("running")
        await page.evaluate(SET_HIDDEN, True)
        await eventually(lambda: engine.stream.subscribers == 0, "the end of the stream")
        record.status = TaskStatus.SUCCESS
        engine.put(record)
        await page.evaluate(SET_HIDDEN, False)
        await expect(page.locator("tbody tr")).to_contain_text("success")


async def test_a_page_that_missed_too_much_reads_again(opened: OpenPage, engine: House) -> None:
    engine.manager.stream = LiveStream(size=3)
    async with opened("?view=tasks") as page:
        await expect(page.get_by_text("Live")).to_be_visible()
        await page.evaluate(SET_HIDDEN, True)
        await eventually(lambda: engine.stream.subscribers == 0, "the end of the stream")
        for _ in range(10):
            engine.put(make_record())
        await page.evaluate(SET_HIDDEN, False)
        await expect(page.locator("tbody tr")).to_have_count(10)


async def test_a_running_task_shows_progress_and_its_log_as_they_come(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.RUNNING, progress=Progress(1, 4, "step one")))
    async with opened(f"?view=task&id={record.task_id}") as page:
        await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")
        engine.progress(record, Progress(4, 4, "step four"))
        await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
        for number in range(3):
            engine.log(record, f"line {number}")
        await expect(page.get_by_role("log")).to_contain_text("line 2")
        record.status = TaskStatus.SUCCESS
        engine.put(record)
        await expect(page.get_by_role("button", name="Run again")).to_be_visible()
        await expect(page.locator(".log")).to_have_count(3)


async def test_what_the_stream_tells_while_a_task_is_read_is_not_lost(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.RUNNING))
    async with opened("?view=tasks") as page:
        browser = await page.context.new_cdp_session(page)
        await browser.send("Network.enable")
        heard: list[str] = []
        browser.on("Network.eventSourceMessageReceived", lambda message: heard.append(message["eventName"]))

        async def answer_late(route: Route) -> None:
            older = await route.fetch()
            engine.log(record, "said in between")
            await eventually(lambda: "log" in heard, "the log entry on the stream")
            await page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
            await route.fulfill(response=older)

        await page.route(f"**/tasks/{record.task_id}", answer_late)
        await page.locator("tbody tr").get_by_role("link").click()
        await expect(page.get_by_role("log")).to_contain_text("said in between")


async def test_the_trace_of_a_task_is_a_link(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record())
    async with opened(f"?view=task&id={record.task_id}", trace_url="http://jaeger.test/trace/{trace_id}") as page:
        link = page.get_by_role("link", name="Trace")
        await expect(link).to_have_attribute("href", f"http://jaeger.test/trace/{'a' * 32}")


async def test_failures_are_retried_as_a_group_after_a_question(opened: OpenPage, engine: House) -> None:
    for number in range(3):
        engine.put(make_record(status=TaskStatus.FAILED, error=f"order {number} refused", error_type="OrderError"))
    engine.put(make_record("other", TaskStatus.FAILED, error="order 7 refused", error_type="OrderError", age=100))
    async with opened("?view=failures") as page:
        await page.get_by_role("button", name="Retry 3 open").click()
        await page.get_by_role("button", name="Back").click()
        assert len(engine.records) == 4
        await page.get_by_role("button", name="Retry 3 open").click()
        await page.get_by_role("button", name="Retry them").click()
        await expect(page.get_by_text("3 tasks enqueued again")).to_be_visible()
        await expect(page.locator(".group").filter(has_text="send_email")).to_contain_text("0 / 3")
        await expect(page.get_by_role("button", name="open")).to_have_count(0)
    assert sum(record.source == "retry" for record in engine.records.values()) == 3


async def test_a_queue_is_paused_and_limited_by_hand(opened: OpenPage, engine: House) -> None:
    async with opened("?view=queues") as page:
        card = page.locator("article").filter(has_text="mail")
        await card.get_by_role("button", name="Pause").click()
        await page.get_by_role("button", name="Pause the queue").click()
        await expect(card.get_by_text("paused", exact=True)).to_be_visible()
        await card.get_by_label("Concurrency of each instance").fill("7")
        await card.get_by_label("Max waiting on each").fill("")
        await card.get_by_role("button", name="Save limits").click()
        await expect(card).to_contain_text("0 of 7 slots")
    mail = engine.queues["mail"]
    assert (mail.paused, mail.concurrency, mail.max_size) == (True, 7, None)


async def test_someone_who_may_only_look_is_offered_no_action(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    async with opened(f"?view=task&id={record.task_id}", read_only=True) as page:
        await expect(page.get_by_role("heading", name="Log", exact=True)).to_be_visible()
        await expect(page.get_by_role("button", name="Retry")).to_have_count(0)


async def test_the_list_is_walked_with_the_keyboard(opened: OpenPage, engine: House) -> None:
    for name in ("first", "second", "third"):
        engine.put(make_record(name))
    async with opened("?view=tasks") as page:
        await expect(page.locator("tbody tr")).to_have_count(3)
        for key in ("j", "j", "j", "k", "Enter"):
            await page.keyboard.press(key)
        await expect(page.get_by_role("heading", name="second")).to_be_visible()
        await page.get_by_role("link", name="Tasks").last.click()
        await page.keyboard.press("/")
        await expect(page.get_by_label("Search")).to_be_focused()


@pytest.mark.parametrize(
    "view", ["overview", "tasks", "failures", "types", "type", "queues", "instances", "audit", "task"]
)
async def test_a_phone_shows_every_view_without_scrolling_sideways(opened: OpenPage, engine: House, view: str) -> None:
    record = engine.put(make_record("a_task_with_quite_a_long_name" * 3, TaskStatus.FAILED, error="x" * 400))
    record.stacktrace = "y" * 400
    engine.log(record, "z" * 400)
    engine.put(make_record(status=TaskStatus.RUNNING, progress=Progress(1, 3)))
    query = urlencode({"view": view, "id": record.task_id, "name": record.func_name})
    async with opened(f"?{query}", viewport=(360, 740)) as page:
        await is_read(page)
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        outside = "[...document.querySelectorAll('nav a')].filter((a) => a.getBoundingClientRect().right > innerWidth)"
        assert await page.evaluate(f"{outside}.length") == 0, "every view can be reached"
        # The names in the navigation stand apart.
        for width in (360, 390):
            await page.set_viewport_size({"width": width, "height": 740})
            assert await page.evaluate(NARROWEST_GAP) >= 3, f"at {width} pixels"


async def test_the_audit_shows_who_did_what_with_a_link_to_the_task(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record("charge_card"))
    await engine.backend.audit_store.add(
        [make_entry(actor=HOSTILE, task_id=record.task_id, reason="they asked for it")]
    )
    async with opened("?view=audit") as page:
        row = page.get_by_role("row").filter(has_text="they asked for it")
        await expect(row).to_contain_text(HOSTILE)
        await row.get_by_role("link").click()
        await expect(page.get_by_role("heading", name="charge_card")).to_be_visible()


async def test_logging_in_leads_to_the_view_that_was_asked_for_and_lets_an_operator_act(
    opened: OpenPage, engine: House
) -> None:
    gate = Gate()
    task_id = await engine.manager.enqueue(gate.run)
    await gate.entered.wait()
    async with opened(f"?view=task&id={task_id}", auth=("ada", "secret"), title="Orders") as page:
        await page.get_by_label("User name").fill("ada")
        await page.get_by_label("Password").fill("secret")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_role("button", name="Cancel the task").click()
        await expect(page.locator(".task-head")).to_contain_text("cancelled")
        await page.get_by_role("button", name="Log out ada").click()
        await expect(page.get_by_role("button", name="Log in")).to_be_visible()


async def test_the_page_shows_what_a_real_manager_runs(
    browser: Browser, serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    app, manager = FastAPI(), TaskManager()

    @manager.task(retries=1, delay=0.05)
    async def charge_card(order: int) -> None:
        task_log(f"charging order {order}")
        raise RuntimeError(f"order {order} was declined")

    @app.post("/orders/{order}")
    async def place(order: int, tasks: BackgroundTasks) -> None:
        tasks.add_task(charge_card, order)

    TaskAdmin(app, manager, auto_install=True)
    async with serving(app, lifespan="on") as served:
        page = await browser.new_page()
        await page.goto(f"{served.url}/tasks/dashboard?view=tasks")
        await expect(page.get_by_text("Nothing matches")).to_be_visible()
        async with httpx.AsyncClient() as client:
            assert (await client.post(f"{served.url}/orders/7")).status_code == 200
        row = page.get_by_role("row").filter(has_text="charge_card")
        await expect(row).to_contain_text("RuntimeError: order 7 was declined")
        await expect(row).to_contain_text("failed")
        await row.get_by_role("link").click()
        await page.get_by_text("The whole traceback").click()
        await expect(page.get_by_label("Traceback", exact=True)).to_contain_text("in charge_card", use_inner_text=True)
        await expect(page.locator(".lane-name")).to_have_text(["Attempt 1", "Attempt 2"])
        await expect(page.locator(".log")).to_have_count(2)
        await page.get_by_role("button", name="Retry").click()
        await expect(page.get_by_text("Retry of")).to_be_visible()
        await page.close()


async def test_a_page_whose_user_is_signed_out_by_the_application_leads_to_its_login(
    browser: Browser,
    app_of: Callable[..., FastAPI],
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    class SignedOutError(Exception):
        """What an application raises, whose handler leads to its login."""

    def current_user(shop: Annotated[str | None, Cookie()] = None) -> str:
        if shop is None:
            raise SignedOutError
        return shop

    app = app_of(auth=current_user, role=lambda user: "operator", poll_interval=0.5)
    app.exception_handler(SignedOutError)(lambda request, exc: RedirectResponse("/shop/login", 303))
    app.get("/shop/login")(lambda: HTMLResponse("<h1>Sign in to the shop</h1>"))
    async with serving(app) as served:
        context = await browser.new_context()
        await context.add_cookies([{"name": "shop", "value": "ada", "url": served.url}])
        page = await context.new_page()
        await page.goto(f"{served.url}/tasks/dashboard")
        await expect(page.get_by_text("ada", exact=True)).to_be_visible()
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        await context.clear_cookies()
        await expect(page.get_by_text("Sign in to the shop")).to_be_visible()
        await context.close()
