"""The trace of a task on its page: a table that is a waterfall."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from playwright.async_api import Browser, Page, Route, expect

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, Telemetry
from taskflow_otel.backends.base import AppendSpans
from taskflow_otel.model.record import Progress
from taskflow_otel.model.spans import AttemptSpans, KeptSpan, dump_spans
from taskflow_otel.model.status import TaskStatus
from tests.waiting import eventually
from tests.web.conftest import OpenPage, Served
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

# Where the bar of a row begins, and its width, as parts of its track: of one moment, since what is above may grow.
PLACE = """(row) => {
    const box = (name) => row.querySelector(name).getBoundingClientRect();
    const [bar, track] = [box(".waterfall-bar"), box(".waterfall-track")];
    return [(bar.x - track.x) / track.width, bar.width / track.width];
}"""


async def test_the_spans_of_a_task_are_rows_that_open_to_their_details_by_keyboard(
    opened: OpenPage, engine: House
) -> None:
    record = engine.put(make_record(wait=0.5, duration=2.0))
    start = round(record.created_at.timestamp() * 1e6) + 500_000
    inside = [
        KeptSpan("1" * 16, "c" * 16, "charge", "internal", start + 100_000, start + 1_900_000),
        KeptSpan(
            "2" * 16,
            "1" * 16,
            "SELECT <b>",
            "client",
            start + 1_000_000,
            start + 1_000_250,
            True,
            "deadlock",
            {"db.system": "sqlite"},
        ),
        *(
            KeptSpan(f"{n:016x}", "c" * 16, f"small {n}", "internal", start + 1_950_000, start + 1_950_010)
            for n in range(100)
        ),
    ]
    spans = AttemptSpans("a" * 32, "c" * 16, (), tuple(inside), 7)
    await engine.backend.apply([AppendSpans(record.task_id, record.instance, record.token, 0, dump_spans(spans))])
    async with opened(f"?view=task&id={record.task_id}") as page:
        card = page.get_by_role("region", name="Trace")
        table = card.get_by_role("table")
        await expect(card).to_contain_text("102 spans")
        await expect(card).to_contain_text("7 short spans not kept.")
        rows = table.locator("tbody .waterfall-row")
        # One more row shows the rest.
        await expect(rows).to_have_count(3 + 60 + 1)
        await expect(rows.nth(2).get_by_role("rowheader")).to_contain_text("Attempt 1")
        query = rows.filter(has_text="SELECT <b>")
        await expect(query.get_by_role("cell").first).to_have_text("250 µs")
        button = query.get_by_role("button")
        await expect(button).to_have_attribute("aria-expanded", "false")
        await button.focus()
        await page.keyboard.press("Enter")
        await expect(button).to_have_attribute("aria-expanded", "true")
        details = table.locator(".waterfall-details:visible")
        await expect(details).to_contain_text("deadlock")
        await expect(details).to_contain_text("db.system")
        await page.keyboard.press("ArrowUp")
        await expect(table.get_by_role("button", name="charge")).to_be_focused()
        # The bar begins and ends where the span does, from the start of the task.
        assert await rows.nth(3).evaluate(PLACE) == pytest.approx([0.6 / 2.5, 1.8 / 2.5], abs=0.01)
        await table.get_by_role("button", name="Show 42 more spans of attempt 1").click()
        await expect(rows).to_have_count(3 + 102 + 1)
        await card.get_by_label("Scale of the trace").select_option("Attempt 1")
        begin, _ = await rows.nth(3).evaluate(PLACE)
        assert begin == pytest.approx(0.05, abs=0.01)


async def test_a_page_without_tracing_shows_what_the_ledger_knows(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.PENDING, age=5))
    async with opened(f"?view=task&id={record.task_id}") as page:
        card = page.get_by_role("region", name="Trace")
        await expect(card).to_contain_text("Tracing is off")
        await expect(card.locator("tbody .waterfall-row")).to_have_count(2)


async def test_a_request_its_task_and_the_spans_of_both_attempts_are_one_waterfall(
    browser: Browser, serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("shop")
    manager = TaskManager(telemetry=Telemetry(tracer_provider=provider), snapshot_interval=0.01)
    app = FastAPI()
    TaskAdmin(app, manager)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    tried: list[int] = []

    @manager.task(retries=1, delay=0.01)
    async def charge(order: int) -> None:
        with tracer.start_as_current_span(f"POST pay/{order}"):
            tried.append(order)
            if len(tried) == 1:
                raise ConnectionError("the gateway did not answer")
            with tracer.start_as_current_span("INSERT payments"):
                pass

    @app.post("/orders/{order}")
    async def place(order: int, tasks: ManagedBackgroundTasks) -> str:
        return tasks.add_task(charge, order)

    async with serving(app, lifespan="on") as served, httpx.AsyncClient() as client:
        task_id = (await client.post(f"{served.url}/orders/7")).json()
        await manager.wait(task_id, 20)

        async def kept() -> bool:
            bars = (await client.get(f"{served.url}/tasks/{task_id}/trace")).json()["bars"]
            return "INSERT payments" in {bar["name"] for bar in bars}

        await eventually(kept, "the spans of both attempts in the ledger")
        page = await browser.new_page()
        await page.goto(f"{served.url}/tasks/dashboard?view=task&id={task_id}")
        card = page.get_by_role("region", name="Trace")
        # The spans of an earlier attempt are folded.
        await expect(card.locator(".waterfall-name")).to_have_text(
            [
                "POST /orders/{order}",
                "send charge",
                "waiting",
                "Attempt 1 process charge",
                "backoff",
                "Attempt 2 process charge",
                "POST pay/7",
                "INSERT payments",
            ]
        )
        await card.get_by_role("button", name="Show 1 more span of attempt 1").click()
        failed = card.get_by_role("row").filter(has_text="POST pay/7").first
        await expect(failed).to_have_attribute("data-failed", "true")
        await failed.get_by_role("button").click()
        await expect(card.locator(".waterfall-details:visible")).to_contain_text("the gateway did not answer")
        await page.close()


async def test_a_trace_that_does_not_come_delays_nothing_else_on_the_page(opened: OpenPage, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.RUNNING, progress=Progress(1, 4, "step one")))
    answered = asyncio.Event()

    async def wait(route: Route) -> None:
        await answered.wait()
        await route.continue_()

    async def unanswered(page: Page) -> None:
        await page.route("**/trace", wait)

    async with opened(f"?view=task&id={record.task_id}", prepare=unanswered) as page:
        await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")
        engine.progress(record, Progress(4, 4, "step four"))
        await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
        await expect(page.get_by_role("region", name="Trace")).to_be_hidden()
        answered.set()
        await expect(page.get_by_role("region", name="Trace")).to_be_visible()
