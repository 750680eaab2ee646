"""The filter of the list: a line of words that selects, suggests, and says what it cannot do."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web import argument_search, fleet_api
from tests.web.conftest import OpenPage, ShowPage
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

READ = "async (line) => (await import(new URL('static/filter.js', location.href))).read(line)"
# Longer than the page waits for the next letter, by the clock of the page itself.
TYPED = "new Promise((resolve) => setTimeout(resolve, 400))"
ROUND = """async (filters) => {
  const { read, written } = await import(new URL('static/filter.js', location.href));
  return read(written(filters));
}"""


async def test_a_line_means_filters_of_the_api_and_filters_are_written_as_a_line(
    opened: OpenPage, engine: House
) -> None:
    async with opened("?view=tasks") as page:
        for line, filters in {
            "": {},
            "lost order": {"q": "lost order"},
            "status:failed type:charge error:Timeout duration:>5s": {
                "status": "failed",
                "func_name_prefix": "charge",
                "error": "Timeout",
                "min_duration": "5s",
            },
            "type:=charge_card duration:<100ms declined": {
                "func_name": "charge_card",
                "max_duration": "100ms",
                "q": "declined",
            },
            'error:"not found" tag:tenant:acme': {"error": "not found", "tag": "tenant:acme"},
            "KeyError: 'x' at 12:03": {"q": "KeyError: 'x' at 12:03"},
            "created:1h before:10m ended:6h ended_before:5m source:retry": {
                "since": "1h",
                "until": "10m",
                "ended_since": "6h",
                "ended_until": "5m",
                "source": "retry",
            },
            'args.order:782 args:vip args.customer.name:"Ada L" lost': {
                "args": 'order:782 vip customer.name:"Ada L"',
                "q": "lost",
            },
            "args.0:782 args:http://x/?a=b args.ünique_2:5": {"args": '0:782 "http://x/?a=b" ünique_2:5'},
        }.items():
            assert await page.evaluate(READ, line) == filters
            assert await page.evaluate(ROUND, filters) == filters
        assert await page.evaluate(ROUND, {"q": "status:failed"}) == {"q": "status:failed"}


async def test_the_line_selects_suggests_with_numbers_and_refuses_in_a_sentence(
    opened: OpenPage, engine: House
) -> None:
    for number in range(3):
        engine.put(make_record("charge_card", TaskStatus.FAILED, error="slow", error_type="TimeoutError", duration=9.0))
        engine.put(make_record("charge_gift", TaskStatus.SUCCESS, queue=f"mail{number}"))
    engine.put(make_record("build_report", TaskStatus.FAILED, error="slow", error_type="OrderError"))
    async with opened("?view=tasks") as page:
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(7)
        field = page.get_by_label("Search")
        await field.press_sequentially("type:cha")
        await expect(page.get_by_role("option").filter(has_text="charge_card")).to_contain_text("3 tasks")
        await expect(rows).to_have_count(6)
        await page.keyboard.press("ArrowDown")
        await expect(page.get_by_role("option", selected=True)).to_have_count(1)
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("listbox")).to_be_hidden()
        await expect(field).to_be_focused()
        await field.fill("type:charge duration:>5s error:timeout")
        await expect(rows).to_have_count(3)
        assert page.url.endswith("?view=tasks&func_name_prefix=charge&error=timeout&min_duration=5s")
        # New tasks are judged by the same filter.
        engine.put(
            make_record("build_report", TaskStatus.FAILED, error_type="TimeoutError", error="", duration=9.0, age=0)
        )
        engine.put(
            make_record("charge_late", TaskStatus.FAILED, error_type="TimeoutError", error="", duration=9.0, age=0)
        )
        await expect(rows).to_have_count(4)
        await expect(rows.first).to_contain_text("charge_late")
        # What is still being written is neither asked for nor refused.
        for line in ("status:fai", "created:1", "ended:2026-"):
            await field.fill(line)
            await page.evaluate(TYPED)
            await expect(field).to_have_attribute("aria-invalid", "false")
        await field.fill("status:f")
        await page.get_by_role("option").filter(has_text="status:failed").click()
        await expect(field).to_have_value("status:failed ")
        await expect(page.get_by_role("button", name="failed")).to_have_attribute("aria-pressed", "true")
        await page.get_by_role("button", name="success").click()
        await expect(field).to_have_value("status:success")
        await expect(rows).to_have_count(3)
        for line, said in {
            "args.customer..name:Ada ": "is not the name of an argument",
            "duration:5s": "begins with > or <",
            "status:broken": "status: is one of pending, running",
            "created:yesterday": "created: needs an age such as 6h",
            "queue:a queue:b": "queue: can be given once",
        }.items():
            await field.fill(line)
            await expect(page.get_by_role("alert").filter(has_text=said)).to_be_visible()
            await expect(field).to_have_attribute("aria-invalid", "true")


async def test_suggestions_are_counted_over_all_tasks_that_the_rest_of_the_line_selects(
    opened: OpenPage, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over those that no page shows; no count reads more than its limit."""
    for number in range(30):
        engine.keep(make_record("charge_card", TaskStatus.FAILED, error_type="CardError", error="no", age=900 - number))
    for number in range(100):
        engine.keep(make_record("charge_gift", queue="mail" if number < 40 else "default", tags={"tenant": "acme"}))
    async with opened("?view=tasks") as page:
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(100)
        await expect(rows.filter(has_text="charge_card")).to_have_count(0)
        field = page.get_by_label("Search")
        option = page.get_by_role("option")
        engine.backend.queries.clear()
        await field.press_sequentially("type:")
        # Of the tasks of this type, the page has none.
        card = option.filter(has_text="type:=charge_card")
        await expect(card).to_contain_text("30 tasks")
        await expect(option.filter(has_text="type:=charge_gift")).to_contain_text("100 tasks")
        # One that is declared and has no task.
        await expect(option.filter(has_text="type:=send_report")).to_contain_text("0 tasks")
        # What is chosen stays chosen when the numbers come.
        await page.keyboard.press("ArrowDown")
        await expect(page.get_by_role("option", selected=True)).to_have_count(1)
        await card.click()
        await expect(field).to_have_value("type:=charge_card ")
        await expect(rows).to_have_count(30)
        await field.fill("queue:mail tag:")
        await expect(option.filter(has_text="tag:tenant:acme")).to_contain_text("40 tasks")
        await field.fill("error:card")
        await expect(option.filter(has_text="error:CardError")).to_contain_text("30 tasks")
        assert all(query.count_limit is not None for query in engine.backend.queries if query.limit == 100)
        monkeypatch.setattr(fleet_api, "COUNT_LIMIT", 7)
        await field.fill("status:success source:")
        await expect(option.filter(has_text="source:manual")).to_have_text(re.compile(r"7\+ tasks$"))


async def test_a_search_by_arguments_says_how_far_it_came_and_continues_by_request(
    opened: OpenPage, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the address and in saved views; nothing on the page speaks of tasks that were not searched."""
    monkeypatch.setattr(argument_search.search, "__kwdefaults__", {"clock": SYSTEM_CLOCK, "rows": 3})
    payload = '{"v":1,"names":["order"],"args":[%d],"kwargs":{}}'
    oldest = engine.keep(make_record("charge_card", payload=payload % 782))
    for number in range(40):
        engine.keep(make_record("charge_gift", payload="fernet1:x" if number == 39 else payload % number))
    async with opened("?view=tasks", display_func_args=True) as page:
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(41)
        field, said = page.get_by_label("Search"), page.locator(".searched")
        engine.backend.queries.clear()
        await field.press_sequentially("args.order:782")
        await page.evaluate(TYPED)
        # Not at each letter: a search reads many tasks.
        assert [query for query in engine.backend.queries if query.limit <= 3] == []
        await field.press("Enter")
        await expect(said).to_contain_text("Searched the arguments of 29 tasks, back to ")
        await expect(said).to_contain_text("1 task could not be searched")
        await expect(page.get_by_text("No match in what was searched.")).to_be_visible()
        await expect(page.locator(".view-head")).to_contain_text("0 found in what was searched")
        await expect(rows).to_have_count(0)
        # A task that comes now has not been searched.
        engine.put(make_record("charge_late", payload=payload % 782))
        further = page.get_by_role("button", name="Search further")
        await further.click()
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("charge_card")
        await expect(said).to_contain_text("Searched the arguments of 11 tasks on from here, to the oldest.")
        await expect(further).to_be_hidden()
        assert "args=order%3A782" in page.url
        # What was found is acted on by its ids alone.
        await rows.get_by_role("checkbox").check()
        await expect(page.get_by_label("Selected tasks")).to_contain_text("1 selected")
        await expect(page.get_by_role("button", name="All that the filter selects")).to_be_hidden()
        await page.get_by_role("button", name="Select none").click()
        await page.get_by_text("Views", exact=True).click()
        await page.get_by_label("Name of the view").fill("order")
        await page.get_by_role("button", name="Save this view").click()
        await expect(page.get_by_role("link", name="order", exact=True)).to_have_attribute(
            "href", "?view=tasks&args=order%3A782"
        )
        await page.goto(page.url.partition("?")[0] + f"?view=tasks&args=order:782+charge&q={oldest.task_id}")
        await expect(field).to_have_value(f"args.order:782 args:charge {oldest.task_id}")
        await expect(said).to_have_text(re.compile("Searched the arguments of 1 task, which are all"))
        await page.get_by_role("button", name="Clear").click()
        await expect(rows).to_have_count(42)
        await expect(said).to_be_hidden()


async def test_hidden_arguments_are_not_searched_and_the_page_says_why(shown: ShowPage, engine: House) -> None:
    engine.put(make_record(payload='{"v":1,"args":[],"kwargs":{"order":782}}'))
    async with shown("?view=tasks&args=order:782") as one:
        await expect(one.page.get_by_text("because arguments are hidden")).to_be_visible()
        await expect(one.page.locator("tbody tr")).to_have_count(0)
