"""Rows of the list are selected, and acted on together."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import OpenPage
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser


async def test_selected_rows_are_retried_and_cancelled_together_and_do_not_move(
    opened: OpenPage, engine: House
) -> None:
    failed = [engine.put(make_record(status=TaskStatus.FAILED, error="boom")) for _ in range(6)]
    engine.put(make_record("build_report", TaskStatus.PENDING, age=0))
    engine.put(make_record("done", TaskStatus.SUCCESS))
    async with opened("?view=tasks") as page:
        rows = page.locator("tbody tr")
        bar = page.get_by_role("region", name="Selected tasks")
        await expect(rows).to_have_count(8)
        await expect(bar).to_be_hidden()
        await page.get_by_label(f"Select send_email {failed[4].task_id[-8:]}").check()
        await page.get_by_label(f"Select send_email {failed[2].task_id[-8:]}").click(modifiers=["Shift"])
        await expect(bar).to_contain_text("3 selected")
        await expect(bar.get_by_role("button", name="Retry 3")).to_be_visible()
        await expect(bar.get_by_role("button", name="Cancel")).to_be_hidden()
        engine.put(make_record("later", TaskStatus.SUCCESS, age=0))
        await expect(page.locator(".new-rows")).to_contain_text("1 new")
        await page.mouse.move(2, 2)
        await expect(rows).to_have_count(8)
        # The keyboard selects the row on which it stands.
        await page.get_by_role("link", name="build_report").focus()
        await page.keyboard.press("x")
        await expect(bar).to_contain_text("4 selected")
        await bar.get_by_role("button", name="Cancel 1").click()
        await page.get_by_label("Reason").fill("not wanted")
        await page.get_by_role("button", name="Cancel them").click()
        await expect(page.get_by_text("1 task cancelled")).to_be_visible()
        await expect(bar).to_be_hidden()
        await page.get_by_label("Select all on this page").check()
        await bar.get_by_role("button", name="Retry 6").click()
        await page.get_by_role("button", name="Retry them").click()
        await expect(page.get_by_text("6 tasks enqueued again")).to_be_visible()
    assert sum(record.source == "retry" for record in engine.records.values()) == 6


async def test_all_that_the_filter_selects_can_be_acted_on(opened: OpenPage, engine: House) -> None:
    """More than a page: the number is counted before the question."""
    for number in range(104):
        engine.put(make_record("report" if number % 52 else "other", TaskStatus.FAILED, error="boom"))
    async with opened("?view=tasks&func_name=report&status=failed") as page:
        await expect(page.locator("tbody tr")).to_have_count(100)
        bar = page.get_by_role("region", name="Selected tasks")
        await page.get_by_label("Select all on this page").check()
        await bar.get_by_role("button", name="All that the filter selects").click()
        await bar.get_by_role("button", name="Retry").click()
        await expect(page.get_by_role("heading", name="Retry 102 tasks?")).to_be_visible()
        await page.get_by_role("button", name="Retry them").click()
        await expect(page.get_by_text("102 tasks enqueued again")).to_be_visible()
    retried = [record for record in engine.records.values() if record.source == "retry"]
    assert {record.func_name for record in retried} == {"report"}
    assert len(retried) == 102


async def test_someone_who_may_only_look_selects_nothing(opened: OpenPage, engine: House) -> None:
    engine.put(make_record("done"))
    async with opened("?view=tasks", read_only=True) as page:
        await expect(page.get_by_role("link", name="done")).to_be_visible()
        await expect(page.get_by_role("checkbox")).to_have_count(0)
