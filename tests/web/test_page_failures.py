"""Failures as a worklist on the page: its numbers, its actions on exactly the open tasks, and its weight."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from taskflow_otel.model.status import TaskStatus
from tests.waiting import eventually
from tests.web.conftest import OpenPage
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser


async def charge(order: int) -> None:
    """Fail, for some orders in another way."""
    if order >= 100:
        raise KeyError(order)
    try:
        raise OSError(f"no answer for {order}")
    except OSError as cause:
        raise LookupError(f"order {order} not charged") from cause


async def test_a_group_shows_what_it_is_and_its_actions_are_about_its_open_tasks(
    opened: OpenPage, engine: House
) -> None:
    manager = engine.manager
    manager.task(name="charge")(charge)
    manager.task(name="later", retries=1, delay=900)(charge)
    for order in (100, 7, 8):
        await manager.wait(await manager.enqueue(charge, order), 20)
    await eventually(lambda: len(engine.records) == 3, "the history of all three")
    async with opened("?view=failures", display_func_args=True) as page:
        await expect(page.get_by_text("2 groups, 3 open")).to_be_visible()
        detail = page.locator(".failure")
        await expect(detail.get_by_role("heading", name="LookupError")).to_be_visible()
        await expect(detail).not_to_contain_text("null")
        await expect(page.locator(".group").first.locator(".badge")).to_have_text("new")
        # The first cause comes first, and what is not the own code is folded.
        errors = detail.locator(".cause-error")
        await expect(errors).to_have_text(["OSError: no answer for 8", "LookupError: order 8 not charged"])
        await expect(detail.locator(".frame.own:visible").first).to_contain_text("test_page_failures.py")
        await expect(detail.get_by_text("library frames").first).to_be_visible()
        await expect(detail.get_by_label("Arguments")).to_contain_text("8")
        await expect(detail.locator(".occurrences .bar-failed").last).to_be_visible()
        await detail.get_by_role("link", name="2 tasks").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.go_back()

        await detail.get_by_role("button", name="Retry 2 open").click()
        await page.get_by_role("button", name="Retry them").click()
        await expect(page.get_by_text("2 tasks enqueued again")).to_be_visible()
        # Both failed again: these are open now, and the first two are not.
        await expect(page.locator(".group").filter(has_text="LookupError")).to_contain_text("2 / 4")

        await detail.get_by_role("button", name="Ignore").click()
        await page.get_by_label("How long").select_option("7d")
        await page.get_by_label("Reason").fill("known outage")
        await page.get_by_role("button", name="Ignore it").click()
        await expect(page.get_by_text("1 group, 1 open")).to_be_visible()
        await page.get_by_label("Ignored groups").select_option("true")
        await expect(detail.get_by_text("known outage")).to_be_visible()
        await detail.get_by_role("button", name="Show again").click()
        await expect(page.get_by_text("No failures", exact=True)).to_be_visible()
        await page.get_by_label("Ignored groups").select_option("false")
        await page.get_by_label("Search type, error or message").fill("keyerror")
        await expect(page.locator(".group")).to_have_count(1)
        await expect(page.locator(".group")).to_contain_text("‹n›")


async def test_those_that_wait_for_another_attempt_are_cancelled_from_their_group(
    opened: OpenPage, engine: House
) -> None:
    manager = engine.manager
    manager.task(name="charge", retries=1, delay=900)(charge)
    waiting = [await manager.enqueue(charge, order) for order in (1, 2)]
    kind = None

    async def failed_once() -> bool:
        nonlocal kind
        found = [await manager.get(task_id) for task_id in waiting]
        kind = found[0].fingerprint
        return kind is not None and found[1].fingerprint == kind

    await eventually(failed_once, "the first attempts")
    # One of the same kind that has ended.
    example = await manager.get(waiting[0])
    engine.put(make_record("charge", TaskStatus.FAILED, failures=example.failures, error="order 5 not charged"))
    async with opened(f"?view=failures&fingerprint={kind}") as page:
        await page.get_by_role("button", name="Cancel 2 waiting").click()
        await page.get_by_role("button", name="Cancel them").click()
        await expect(page.get_by_text("2 tasks cancelled")).to_be_visible()
        await expect(page.get_by_role("button", name="waiting")).to_have_count(0)
        await expect(page.get_by_role("button", name="Retry 1 open")).to_be_visible()


async def test_a_thousand_groups_stay_light_and_are_read_in_pages(opened: OpenPage, engine: House) -> None:
    letters = "abcdefghij"
    for number in range(1_000):
        name = "".join(letters[int(digit)] for digit in f"{number:03}")
        engine.keep(make_record("send", TaskStatus.FAILED, error_type="E", error=f"no {name}", age=4_000 - number))
    async with opened("?view=failures") as page:
        await expect(page.get_by_text("1,000 groups, 1,000 open")).to_be_visible()
        await expect(page.locator(".group")).to_have_count(100)
        await expect(page.locator(".group").first).to_contain_text("no jjj")
        # Some ten elements for each row of the page, and none for the groups of other pages.
        assert await page.evaluate("document.querySelectorAll('main *').length") < 2_500
        await page.get_by_role("button", name="Next").click()
        await expect(page.locator(".group").first).to_contain_text("no ijj")
        await expect(page.locator(".group")).to_have_count(100)
        await page.get_by_role("button", name="Previous").click()
        await expect(page.locator(".group").first).to_contain_text("no jjj")


async def test_groups_are_filtered_and_sorted_and_the_link_of_one_leads_to_it(opened: OpenPage, engine: House) -> None:
    for name, error_type, age, number in (
        ("charge", "CardError", 30, 1),
        ("send", "MailError", 900, 4),
        ("pack", "BoxError", 9_000, 2),
    ):
        for _ in range(number):
            engine.put(make_record(name, TaskStatus.FAILED, error_type=error_type, error=f"{name} broke", age=age))
    for _ in range(3):
        engine.put(make_record("ship", TaskStatus.INTERRUPTED, age=2_000, reason="process_died"))
    clipboard = {"permissions": ["clipboard-read", "clipboard-write"]}
    async with opened("?view=failures", context=clipboard) as page:
        titles = page.locator(".group-title strong")
        latest = ["CardError", "MailError", "Its process died", "BoxError"]
        await expect(titles).to_have_text(latest)
        for order, expected in (
            ("open", ["MailError", "Its process died", "BoxError", "CardError"]),
            ("recent", ["MailError", "Its process died", "CardError", "BoxError"]),
        ):
            await page.get_by_label("Order").select_option(order)
            await expect(titles).to_have_text(expected)
        await page.get_by_label("Order").select_option("last")
        await expect(titles).to_have_text(latest)
        await page.get_by_label("State").select_option("interrupted")
        await expect(titles).to_have_text(["Its process died"])
        await page.get_by_label("State").select_option("")
        await page.get_by_label("Task name").fill("pack")
        await expect(titles).to_have_text(["BoxError"])
        await page.get_by_label("Task name").fill("")
        await page.get_by_role("button", name="1h").click()
        await expect(titles).to_have_text(latest[:3])
        await page.locator(".group").filter(has_text="MailError").click()
        detail = page.locator(".failure")
        await expect(detail.get_by_role("heading", name="MailError")).to_be_visible()
        await detail.get_by_role("button", name="Copy link").click()
        await expect(detail.get_by_role("button", name="Copied")).to_be_visible()
        await page.goto(await page.evaluate("navigator.clipboard.readText()"))
        await expect(detail.get_by_role("heading", name="MailError")).to_be_visible()
        await expect(detail.get_by_role("button", name="Retry 4 open")).to_be_visible()
