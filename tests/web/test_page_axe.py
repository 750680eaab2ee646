"""The page is judged by axe-core: no view breaks a rule, light and dark, wide and on a phone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.operation import OperationItem
from taskflow_otel.model.record import Progress
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.admin import make_entry, make_operation
from tests.web.conftest import OpenPage, is_read
from tests.web.house import House, make_record

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[2] / "build" / "page-tools" / "node_modules" / "axe-core" / "axe.min.js"
VIEWS = (
    "overview",
    "tasks",
    "running",
    "failures",
    "types",
    "type&name=charge_card",
    "queues",
    "schedules",
    "instances",
    "audit",
    "operations",
    "operation",
    "task",
)


@pytest.fixture
def axe() -> str:
    """The text of axe-core (MPL 2.0), which is installed beside the other tools of the page and is no part of it."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make page)")
    return AXE.read_text("utf-8")


async def violations(page: Page) -> list[Any]:
    found: list[Any] = await page.evaluate("""async () => {
        const { violations } = await axe.run(document, { resultTypes: ["violations"] });
        const told = ({ html, any, all }) => [html.slice(0, 160), [...any, ...all].map(({ message }) => message)];
        return violations.map(({ id, nodes }) => [id, nodes.slice(0, 4).map(told)]);
    }""")
    return found


@pytest.mark.parametrize(("scheme", "viewport"), [("light", (1280, 900)), ("dark", (1280, 900)), ("light", (390, 844))])
async def test_no_view_breaks_a_rule(
    opened: OpenPage, engine: House, axe: str, scheme: str, viewport: tuple[int, int]
) -> None:
    for status in TaskStatus:
        engine.put(make_record(f"task_{status}", status, tags={"tenant": "acme"}, error_type="OrderError"))
    engine.put(make_record("long_one", TaskStatus.RUNNING, progress=Progress(1, 4, "step one")))
    failed = make_record("charge_card", TaskStatus.FAILED, error="declined", error_type="CardError")
    failed.stacktrace = (
        'Traceback (most recent call last):\n  File "/app/shop.py", line 3, in pay\n    go()\nCardError: declined'
    )
    engine.put(failed)
    for level in ("info", "warning", "error"):
        engine.log(failed, "a line", level, order=7)
    engine.log(failed, "the task is at shop.py:3 in pay: it blocked the event loop for 0.52 s", "warning", stack=["go"])
    engine.schedule("nightly")
    await engine.manager.pause_queue("mail")
    await engine.manager.pause_schedule("nightly")
    begun = make_operation(created_at=datetime.now(UTC), total=2, done=1, succeeded=0, reason="asked for")
    items = [OperationItem(seq=0, task_id=failed.task_id, outcome="refused", detail="it runs still")]
    await engine.backend.operation_store.begin(begun)
    await engine.backend.operation_store.save(begun, [*items, OperationItem(seq=1, task_id=new_task_id())])
    await engine.backend.audit_store.add([make_entry(task_id=failed.task_id, reason="asked for")])
    found: dict[str, list[Any]] = {}
    async with opened("?view=overview", viewport=viewport, context={"color_scheme": scheme}) as page:
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        for view in VIEWS:
            await page.evaluate(
                "(query) => { history.pushState(null, '', query); dispatchEvent(new Event('popstate')); }",
                f"?view={view}&id={begun.operation_id if view == 'operation' else failed.task_id}",
            )
            await is_read(page)
            await page.evaluate(axe)
            found[view] = await violations(page)
        await page.get_by_role("button", name="Change and run…").click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        found["question"] = await violations(page)
        await page.get_by_role("button", name="Back").click()
        await page.keyboard.press("?")
        found["help"] = await violations(page)
    assert [f"{view}: {broken}" for view, broken in found.items() if broken] == []
