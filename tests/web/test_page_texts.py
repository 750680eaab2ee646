"""Texts on the page are inert and readable, and numbers arrive as what they are."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.async_api import expect

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.answers import arguments_text
from tests.waiting import eventually
from tests.web.conftest import ClientOf, OpenPage
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

OVERRIDE = "invoice\u202efdp.exe"
UNSEEN = "a\u2066b\u200fc\u200bd\u0007e\ufeff"
SHOWN = "a\\u2066b\\u200fc\\u200bd\\u0007e\\ufeff"
LARGE = 2**53 + 1


async def test_characters_that_nobody_sees_are_shown_in_every_view(opened: OpenPage, engine: House) -> None:
    record = make_record(OVERRIDE, TaskStatus.FAILED, error=OVERRIDE, error_type=UNSEEN, stacktrace=f"\tx\n{OVERRIDE}")
    record.tags, record.queue = {OVERRIDE: UNSEEN}, OVERRIDE
    engine.put(record)
    engine.log(record, UNSEEN, detail=OVERRIDE)
    for view in ("overview", "tasks", "failures", f"task&id={record.task_id}"):
        async with opened(f"?view={view}", title=OVERRIDE) as page:
            await expect(page.get_by_text("invoice\\u202efdp.exe").first).to_be_visible()
            found = await page.evaluate("document.body.innerText + document.title")
            assert not set(found) & set(OVERRIDE + UNSEEN) - set("abcdefghijklmnopqrstuvwxyz.")
            titles = await page.evaluate("[...document.querySelectorAll('[title]')].map((e) => e.title).join('')")
            assert "\u202e" not in titles
            if view.startswith("task&"):
                await expect(page.get_by_role("log")).to_contain_text(SHOWN)
                await page.get_by_text("The whole traceback").click()
                await expect(page.get_by_label("Traceback", exact=True)).to_contain_text("\tx\n", use_inner_text=True)


async def test_a_text_of_another_direction_leaves_its_neighbours_where_they_are(
    opened: OpenPage, engine: House
) -> None:
    engine.put(make_record("שלום", tags={"עיר": "חיפה"}))
    async with opened("?view=tasks") as page:
        row = page.get_by_role("row").filter(has_text="שלום")
        for part in (row.locator(".row-link"), row.locator(".id"), row.locator(".tag")):
            assert await part.evaluate("(element) => getComputedStyle(element).unicodeBidi") == "isolate"


async def test_numbers_arrive_as_what_they_are(opened: OpenPage, engine: House) -> None:
    @engine.manager.task(name="reckon")
    async def reckon(*numbers: object) -> None:
        """Do nothing."""

    numbers = (LARGE, -LARGE, 10**40, float("nan"), float("inf"), -float("inf"), 0.1, "NaN", f"\ue000{LARGE}\ue000")
    task_id = await engine.manager.enqueue(reckon, *numbers)
    record = await engine.manager.wait(task_id, timeout=60)

    async def stored() -> bool:
        return await engine.backend.get(task_id) is not None

    await eventually(stored, "the history of the task")
    engine.log(record, "sum", total=LARGE, other=[{"n": -LARGE}])
    async with opened(f"?view=task&id={task_id}", display_func_args=True) as page:
        shown = page.locator("pre.trace").last
        for number in (LARGE, -LARGE, 10**40, "NaN", "Infinity", "-Infinity", 0.1):
            await expect(shown).to_contain_text(re.compile(rf"\s{number},"))
        await expect(shown).to_contain_text('"NaN",')
        await expect(shown).to_contain_text(f'"\\\\ue000{LARGE}\\\\ue000"')
        await expect(page.get_by_role("log")).to_contain_text(f"total={LARGE}")
        await expect(page.get_by_role("log")).to_contain_text(f'other=[{{"n":-{LARGE}}}]')
        engine.log(record, "live", again=LARGE)
        await expect(page.get_by_role("log")).to_contain_text(f"again={LARGE}")


async def test_arguments_as_text_are_hidden_as_the_others_are(
    client: httpx.AsyncClient, client_of: ClientOf, engine: House
) -> None:
    record = engine.put(make_record(payload='{"v":1,"names":["order"],"args":[1,2],"kwargs":{"gift":true}}'))
    assert "arguments" not in (await client.get(f"/tasks/{record.task_id}")).json()
    showing = client_of(display_func_args=True)
    found = (await showing.get(f"/tasks/{record.task_id}")).json()
    assert (found["args"], found["arguments"]) == (
        [1, 2],
        '{\n  "order": 1,\n  "gift": true,\n  "*": [\n    2\n  ]\n}',
    )


@pytest.mark.parametrize("payload", [None, "damaged", '{"v":99}'])
def test_arguments_that_cannot_be_read_have_no_text(payload: str | None) -> None:
    assert arguments_text(payload) is None
