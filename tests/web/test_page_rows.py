"""The rows of the list under many changes: they stay under the user who is on one, and their number is bounded."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import OpenPage
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

# The shifts that the browser itself noticed, and what was added to and taken from the list.
WATCH = """() => {
  window.seen = { shifts: 0, batches: 0 };
  const count = (list) => (seen.shifts += list.getEntries().length);
  new PerformanceObserver(count).observe({ type: "layout-shift" });
  new MutationObserver(() => (seen.batches += 1)).observe(document.querySelector("tbody"), { childList: true });
}"""
FRAMES = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"


async def applied(page: Page, engine: House, name: str) -> None:
    """Wait until the page has what the stream told until now."""
    probe = engine.put(make_record(name, TaskStatus.RUNNING, age=0))
    await expect(page.locator(f"html[data-told~='{probe.task_id}']")).to_have_count(1)
    await page.evaluate(FRAMES)


async def listening(page: Page) -> None:
    """Note the ids of the tasks that the stream tells of."""
    await page.add_init_script("""
        const told = new Set();
        const Original = EventSource;
        window.EventSource = class extends Original {
            addEventListener(type, listener) {
                super.addEventListener(type, (event) => {
                    listener(event);
                    if (!event.data?.includes("task_id")) return;
                    told.add(JSON.parse(event.data).task_id);
                    document.documentElement.dataset.told = [...told].join(" ");
                });
            }
        };
    """)


async def test_new_rows_wait_while_the_pointer_is_on_one(opened: OpenPage, engine: House) -> None:
    """By keyboard, by pointer, or by scrolling; a row that no longer matches stays, dimmed."""
    records = [engine.put(make_record(f"task_{number}", TaskStatus.RUNNING)) for number in range(40)]
    async with opened("?view=tasks&status=running", prepare=listening) as page:
        rows = page.locator("tbody tr")
        waiting = page.get_by_role("button", name="new", exact=False).and_(page.locator(".new-rows button"))
        await expect(rows).to_have_count(40)
        link = page.get_by_role("link", name="task_36", exact=True)
        await link.focus()
        top = await link.evaluate("(link) => link.getBoundingClientRect().top")
        records[38].status = TaskStatus.SUCCESS
        engine.put(records[38])
        for number in range(2):
            engine.put(make_record(f"later_{number}", TaskStatus.RUNNING, age=0))
        await applied(page, engine, "probe")
        await expect(waiting).to_have_text("3 new")
        await expect(rows).to_have_count(40)
        await expect(rows.filter(has_text="task_38")).to_contain_text("success")
        assert await link.evaluate("(link) => link.getBoundingClientRect().top") == top
        await expect(link).to_be_focused()
        await link.evaluate("(link) => link.blur()")
        await expect(waiting).to_be_hidden()
        await expect(rows).to_have_count(42)
        await expect(rows.first).to_contain_text("probe")
        await expect(rows.filter(has_text="task_38")).to_have_count(0)
        # The pointer.
        await rows.nth(1).hover()
        await applied(page, engine, "under_pointer")
        await expect(waiting).to_have_text("1 new")
        await expect(rows).to_have_count(42)
        await page.mouse.move(5, 5)
        await expect(rows.first).to_contain_text("under_pointer")
        # Scrolled down.
        await page.evaluate("scrollTo(0, 500)")
        await applied(page, engine, "above")
        await expect(waiting).to_have_text("1 new")
        await waiting.click()
        await expect(rows.first).to_contain_text("above")
        assert await page.evaluate("scrollY") == 0


async def test_many_changes_move_the_rows_once_a_second_and_bound_their_number(opened: OpenPage, engine: House) -> None:
    """Operations are counted, no time is."""
    for number in range(100):
        engine.put(make_record(f"task_{number}"))
    async with opened("?view=tasks", prepare=listening) as page:
        await expect(page.locator("tbody tr")).to_have_count(100)
        await page.evaluate(WATCH)
        began = await page.evaluate("performance.now()")
        for number in range(30):
            record = engine.put(make_record(f"burst_{number}", TaskStatus.RUNNING, age=0))
            record.status = TaskStatus.SUCCESS
            engine.put(record)
            await page.evaluate(FRAMES)
        await applied(page, engine, "last_of_all")
        await expect(page.locator("tbody tr").first).to_contain_text("last_of_all")
        await expect(page.locator("tbody tr")).to_have_count(100)
        seconds = (await page.evaluate("performance.now()") - began) / 1000
        seen = await page.evaluate("seen")
        assert seen["batches"] <= seconds + 3
        # Some more: the numbers above the list become wider.
        assert seen["shifts"] <= 1.5 * seconds + 5


async def test_the_rows_of_a_page_are_sorted_and_the_address_keeps_it(opened: OpenPage, engine: House) -> None:
    for name, seconds in (("quick", 0.1), ("slow", 9.0), ("middle", 2.0)):
        engine.put(make_record(name, duration=seconds))
    async with opened("?view=tasks") as page:
        links = page.locator("tbody .row-link")
        await expect(links).to_have_text(["middle", "slow", "quick"])
        await page.get_by_role("button", name="Duration").click()
        await expect(links).to_have_text(["slow", "middle", "quick"])
        await expect(page.get_by_text("sorted by duration within this page")).to_be_visible()
        await page.get_by_role("button", name="Duration").click()
        await expect(links).to_have_text(["quick", "middle", "slow"])
        await expect(page.get_by_role("columnheader", name="Duration")).to_have_attribute("aria-sort", "ascending")
        # A new one waits: its place is known when the page is read again.
        engine.put(make_record("between", duration=1.0, age=0))
        await page.get_by_role("button", name="1 new").click()
        await expect(links).to_have_text(["quick", "between", "middle", "slow"])
        await links.first.click()
        await expect(page.get_by_role("heading", name="quick")).to_be_visible()
        await page.go_back()
        await expect(links).to_have_text(["quick", "between", "middle", "slow"])
        await page.get_by_role("button", name="Duration").click()
        await expect(links).to_have_text(["between", "middle", "slow", "quick"])
        assert "sort" not in page.url


async def test_columns_and_views_are_kept_in_the_browser(opened: OpenPage, engine: House) -> None:
    engine.put(make_record("charge_card", TaskStatus.FAILED))
    engine.put(make_record("send_email"))
    async with opened("?view=tasks&status=failed") as page:
        await page.get_by_text("Columns", exact=True).click()
        await page.get_by_label("Attempt").uncheck()
        await expect(page.get_by_role("columnheader", name="Attempt")).to_be_hidden()
        await page.get_by_text("Views", exact=True).click()
        await page.get_by_label("Name of the view").fill("Broken <b>")
        await page.get_by_role("button", name="Save this view").click()
        await page.get_by_role("button", name="all").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.reload()
        await expect(page.get_by_role("columnheader", name="Attempt")).to_be_hidden()
        await page.get_by_text("Views", exact=True).click()
        await page.get_by_role("link", name="Broken <b>").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        assert page.url.endswith("?view=tasks&status=failed")
        await page.get_by_text("Views", exact=True).click()
        await page.get_by_role("button", name="Remove Broken <b>").click()
        await expect(page.get_by_role("link", name="Broken <b>")).to_have_count(0)
