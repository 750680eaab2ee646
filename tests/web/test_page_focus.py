"""The user who stands on a part of the page, or types, still does after the page has read everything again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, Route, expect

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.admin import make_entry
from tests.web.conftest import ShowPage, is_read
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

# Not its text, which may say how long ago something was.
ACTIVE = "((one) => one.getAttribute('href') || one.name || one.ariaLabel || one.textContent)(document.activeElement)"


@asynccontextmanager
async def reading(shown: ShowPage, query: str) -> AsyncIterator[Page]:
    """A page whose stream never opens, so that the whole view is read again twice a second."""
    ended = asyncio.Event()

    async def hold(route: Route) -> None:
        await ended.wait()
        await route.abort()

    async def prepare(page: Page) -> None:
        await page.route("**/tasks/events*", hold)

    async with shown(query, poll_interval=0.5, prepare=prepare) as one:
        yield one.page
        ended.set()
    assert [text for text in one.complaints if "ERR_FAILED" not in text] == []


async def test_the_list_keeps_the_focus_while_rows_come_and_go(shown: ShowPage, engine: House) -> None:
    for name in ("first", "second", "third"):
        engine.put(make_record(name, TaskStatus.RUNNING))
    async with reading(shown, "?view=tasks&status=running") as page:
        await expect(page.locator("tbody tr")).to_have_count(3)
        second = page.get_by_role("link", name="second")
        await second.focus()
        await second.evaluate("(link) => (link.kept = true)")
        engine.keep(make_record("newest", TaskStatus.RUNNING, age=0))
        waiting = page.locator(".new-rows button")
        await expect(waiting).to_have_text("1 new")
        await expect(second).to_be_focused()
        await page.keyboard.press("j")
        await expect(page.get_by_role("link", name="first")).to_be_focused()
        await waiting.click()
        await expect(page.locator("tbody tr")).to_have_count(4)
        assert await second.evaluate("(link) => link.kept"), "the row is the same element"


async def test_every_view_keeps_the_focus_over_a_reading(shown: ShowPage, engine: House) -> None:
    """The focus is on the same thing, though something was added before it."""
    engine.schedule("nightly")
    audit = engine.backend.audit_store
    await audit.add([make_entry(task_id=engine.put(make_record("charge_card")).task_id, reason="asked for")])
    failed = make_record("first_kind", TaskStatus.FAILED, error="boom", error_type="OrderError", age=900)
    engine.put(failed)
    async with reading(shown, "?view=overview") as page:

        async def stays(added: str) -> None:
            before = await page.evaluate(ACTIVE)
            assert before, "something has the focus"
            await expect(page.locator("main").get_by_text(added).first).to_be_visible()
            assert await page.evaluate(ACTIVE) == before

        async def go(view: str) -> None:
            await page.locator("nav").get_by_role("link", name=view).click()
            await is_read(page)

        await page.locator("main a.row-link").filter(has_text="first_kind").focus()
        engine.keep(make_record("second_kind", TaskStatus.FAILED, error="bang", age=0))
        await stays("second_kind")

        await go("Failures")
        await page.locator(".group").filter(has_text="first_kind").focus()
        engine.keep(make_record("third_kind", TaskStatus.FAILED, error="crash", age=0))
        await stays("third_kind")

        await go("Schedules")
        row = page.locator("tr").filter(has_text="nightly")
        await row.get_by_role("button", name="Pause").focus()
        engine.schedule("daily")
        await stays("daily")
        assert await page.evaluate("document.activeElement.closest('tr').dataset.key") == "nightly"

        await go("Audit")
        await page.locator("main").get_by_role("row").filter(has_text="asked for").get_by_role("link").focus()
        await audit.add([make_entry(task_id=failed.task_id, reason="another one")])
        await stays("another one")

        await go("Instances")
        await page.locator("main").get_by_role("button").first.focus()
        before = await page.evaluate("document.activeElement.title")
        await page.evaluate("document.activeElement.closest('tr').dataset.old = ''")
        await expect(page.locator("tr[data-old]")).to_have_count(0)
        assert await page.evaluate("document.activeElement.title") == before != ""

        await go("Queues")
        field = page.locator("article").filter(has_text="mail").get_by_label("Concurrency of each instance")
        await field.focus()
        await field.press("End")
        await field.press("7")
        await engine.manager.pause_queue("mail")
        await expect(
            page.locator("article").filter(has_text="mail").get_by_role("button", name="Resume")
        ).to_be_visible()
        await expect(field).to_be_focused()
        await expect(field).to_have_value("27")

        await page.goto(page.url.split("?")[0] + f"?view=task&id={failed.task_id}")
        await page.get_by_role("button", name="Retry").focus()
        engine.log(failed, "a later line")
        await stays("a later line")
