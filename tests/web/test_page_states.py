"""What the page knows, and says when it does not: loading, current, old, unreadable; whose time, and which zone."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Page, Route, expect

from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.admin import make_entry
from tests.web.conftest import OpenPage, ShowPage
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    "view", ["overview", "tasks", "failures", "types", "queues", "schedules", "instances", "audit"]
)
async def test_nothing_is_said_of_what_is_not_read_yet_or_cannot_be_read(
    shown: ShowPage, engine: House, view: str
) -> None:
    """Neither that there are no failures, nor anything else."""
    answered = asyncio.Event()

    async def hold(route: Route) -> None:
        await answered.wait()
        await route.fulfill(status=503, json={"detail": "the ledger does not answer"})

    async def prepare(page: Page) -> None:
        for path in ("overview?*", "?*", "failures?*", "types?*", "queues", "schedules", "instances", "audit?*"):
            await page.route(f"**/tasks/{path}", hold)

    # No round of the page comes between the answers and the button.
    async with shown(f"?view={view}", prepare=prepare, poll_interval=3_600) as one:
        page = one.page
        await expect(page.get_by_text("Loading…")).to_be_visible()
        await expect(page.locator("h1")).to_be_visible()
        await expect(page.locator(".empty:visible, table:visible, .tile:visible")).to_have_count(0)
        answered.set()
        await expect(page.get_by_text("This cannot be read now.")).to_be_visible()
        await expect(page.get_by_text("the ledger does not answer")).to_be_visible()
        await expect(page.locator(".empty:visible, table:visible, .tile:visible")).to_have_count(0)
        await page.unroute_all()
        await page.get_by_role("button", name="Try again").click()
        await expect(page.get_by_text("This cannot be read now.")).to_be_hidden()
        await expect(page.locator(".empty, table, .tile, article").locator("visible=true").first).to_be_visible()


async def test_a_page_whose_server_is_gone_says_since_when_and_how_old_it_is_and_stands_still(
    shown: ShowPage, engine: House
) -> None:
    engine.put(make_record("long_one", TaskStatus.RUNNING, age=3_000))
    engine.put(make_record("broken", TaskStatus.FAILED))

    async with shown("?view=tasks", prepare=lambda page: page.clock.install()) as one:
        page = one.page
        row = page.get_by_role("row").filter(has_text="long_one")
        took = row.locator(".took")
        await expect(took).to_contain_text("m")
        before = await took.text_content()
        await page.clock.run_for(60_000)
        await expect(took).not_to_have_text(str(before))
        await expect(page.locator(".view")).to_have_attribute("data-phase", "ready")
        one.served.server.should_exit = True
        await asyncio.wait_for(one.served.ended, 60)
        notice = page.locator(".notice")
        # The next round of the page asks, and gets no answer.
        await page.clock.run_for(6_000)
        await expect(notice).to_contain_text("Not connected since")
        await expect(page.locator(".view")).to_have_attribute("data-phase", "away")
        assert float(await page.locator(".view").evaluate("(view) => getComputedStyle(view).opacity")) < 1
        # Once back to what was known at the last contact, and no further.
        await page.clock.run_for(1_500)
        still = await took.text_content()
        await page.clock.run_for(90_000)
        await expect(notice).to_contain_text(re.compile(r"What is shown is [1-9]\d* m"))
        await expect(took).to_have_text(str(still))
        await expect(page.get_by_text("Nothing matches")).to_be_hidden()
        # Another view knows nothing at all.
        await page.get_by_role("link", name="Failures").click()
        await page.clock.run_for(3_000)
        await expect(notice).to_contain_text("Nothing is known until the server answers")
        await expect(page.get_by_text("No failures")).to_be_hidden()


async def test_a_page_shows_what_changed_once_its_server_answers_again(shown: ShowPage, engine: House) -> None:
    async with shown("?view=failures", poll_interval=0.5) as one:
        page = one.page
        await expect(page.get_by_text("No failures")).to_be_visible()
        await page.context.set_offline(True)
        await page.route("**/tasks/**", lambda route: route.abort())
        engine.keep(make_record(status=TaskStatus.FAILED, error="boom"))
        await page.evaluate("document.querySelector('nav a[href*=failures]').click()")
        await expect(page.locator(".notice")).to_contain_text("Not connected since")
        await page.unroute_all()
        await page.context.set_offline(False)
        await expect(page.locator(".notice")).to_be_hidden()
        await expect(page.locator(".group")).to_contain_text("boom")


async def test_what_was_read_before_is_dimmed_while_the_ledger_cannot_be_read(shown: ShowPage, engine: House) -> None:
    engine.put(make_record("seen"))
    async with shown("?view=tasks", poll_interval=0.5) as one:
        page = one.page
        await expect(page.get_by_role("row").filter(has_text="seen")).to_be_visible()
        engine.backend.unreadable = BackendUnavailableError("the disk is away")
        await expect(page.locator(".notice")).to_contain_text("It cannot be read again")
        await expect(page.locator(".view")).to_have_attribute("data-phase", "stale")
        await expect(page.get_by_role("row").filter(has_text="seen")).to_be_visible()
        engine.backend.unreadable = None
        await expect(page.locator(".view")).to_have_attribute("data-phase", "ready")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("view=tasks&status=bogus", "status"),
        ("view=tasks&since=1h&until=6h", "until (6h) must be later than since (1h)"),
        ("view=tasks&min_duration=soon", "min_duration must be a number of seconds"),
        ("view=tasks&trace_id=xyz", "trace_id must be 32 hexadecimal digits"),
        ("view=failures&since=soon", "since must be an ISO 8601 time"),
        ("view=overview&window=1y", "window"),
        ("view=task&id=00000000-0000-7000-8000-000000000000", "00000000"),
        ("view=bogus", "There is no view “bogus”."),
    ],
)
async def test_a_filter_that_cannot_be_is_an_error_and_not_an_empty_list(
    shown: ShowPage, engine: House, query: str, said: str
) -> None:
    engine.put(make_record(status=TaskStatus.FAILED))
    async with shown(f"?{query}") as one:
        await expect(one.page.locator(".notice")).to_contain_text("This cannot be shown.")
        await expect(one.page.locator(".notice")).to_contain_text(said)
        await expect(one.page.locator(".empty:visible, table:visible, .tile:visible")).to_have_count(0)


@pytest.mark.parametrize(
    ("view", "label", "path"), [("failures", "Order", "failures?*order=open*"), ("audit", "Outcome", "audit?*failed*")]
)
async def test_a_slow_answer_to_an_earlier_choice_does_not_replace_that_to_a_later_one(
    opened: OpenPage, engine: House, view: str, label: str, path: str
) -> None:
    engine.put(make_record("seen", TaskStatus.FAILED, error="boom"))
    await engine.backend.audit_store.add([make_entry(reason="seen")])
    later = asyncio.Event()

    async def hold(route: Route) -> None:
        await later.wait()
        nothing = {"groups": [], "total": 0, "open": 0, "exact": True, "next_cursor": None}
        await route.fulfill(json=nothing if view == "failures" else [])

    async with opened(f"?view={view}", poll_interval=3_600) as page:
        await expect(page.get_by_text("seen").first).to_be_visible()
        await page.route(f"**/tasks/{path}", hold)
        first, second = ("open", "count") if view == "failures" else ("failed", "done")
        async with page.expect_request_finished(lambda request: first in request.url):
            await page.get_by_label(label).select_option(first)
            async with page.expect_response(lambda response: second in response.url):
                await page.get_by_label(label).select_option(second)
            later.set()
        await page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        await expect(page.get_by_text("seen").first).to_be_visible()
        await expect(page.locator(".empty:visible")).to_have_count(0)


@pytest.mark.parametrize("minutes", [-2, 2])
async def test_the_time_is_that_of_the_server(opened: OpenPage, engine: House, minutes: int) -> None:
    engine.put(make_record("steady", TaskStatus.RUNNING, age=630))

    async def prepare(page: Page) -> None:
        await page.clock.install(time=datetime.now(UTC) + timedelta(minutes=minutes))

    async with opened("?view=tasks", prepare=prepare) as page:
        # Half a minute away from what a clock would show that is off by two.
        took = page.get_by_role("row").filter(has_text="steady").locator(".took")
        await expect(took).to_have_text(re.compile(r"^1[01] m \d\d s$"))


async def test_times_name_their_zone_and_can_be_shown_in_utc(opened: OpenPage, engine: House) -> None:
    at = datetime.now(UTC).replace(hour=20, minute=15, second=30, microsecond=250_000) - timedelta(days=3)
    record = engine.put(make_record(created_at=at))
    for context in ({"timezone_id": "Asia/Kolkata"}, {"timezone_id": "UTC"}):
        async with opened(f"?view=task&id={record.task_id}", context=context) as page:
            facts = page.locator(".facts")
            if context["timezone_id"] == "UTC":
                await expect(facts).to_contain_text("20:15:30.250 UTC")
                continue
            await expect(facts).to_contain_text("01:45:30.250 UTC+05:30")
            await expect(page.get_by_title(f"{at + timedelta(days=1):%Y-%m-%d} 01:45:30.250 UTC+05:30")).to_be_visible()
            await page.get_by_role("button", name="Times: Asia").click()
            await expect(facts).to_contain_text("20:15:30.250 UTC")
            await expect(page.get_by_title(f"{at:%Y-%m-%d} 20:15:30.250 UTC")).to_be_visible()
            await page.reload()
            await expect(page.get_by_role("button", name="Times: UTC")).to_be_visible()
