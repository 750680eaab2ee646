"""Where a task was, without anybody asking: at its timeout, when it does not stop, and when it kept the event loop."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, expect

from taskflow_otel import TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.engine.stacks import STACK
from tests.managers import WAIT, stuck
from tests.waiting import eventually
from tests.web.conftest import Served

pytestmark = pytest.mark.browser


async def test_a_timeout_a_stuck_task_and_one_that_blocks_the_event_loop_show_where_they_were(
    browser: Browser, serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    app, manager = FastAPI(), TaskManager(cancel_grace=0.05, blocked_after=0.1, shutdown_timeout=1)
    TaskAdmin(app, manager)
    hold = asyncio.Event()
    ticks: list[bool] = []

    @manager.task(timeout=0.05)
    async def waits_for_the_bank() -> None:
        await asyncio.Event().wait()

    @manager.task()
    async def stubborn() -> None:
        while not hold.is_set():
            try:
                await hold.wait()
            except asyncio.CancelledError:
                continue

    @manager.task()
    async def reckons() -> None:
        # Real time, as long as a thread needs to look some tens of times, however busy the machine is.
        while len(ticks) < 60:
            threading.Event().wait(0.01)

    async def blocked() -> str | None:
        ticks.clear()
        ticker = threading.Thread(target=lambda: ticks.extend(threading.Event().wait(0.01) for _ in range(60)))
        ticker.start()
        task_id = await manager.enqueue(reckons)
        await manager.wait(task_id, WAIT)
        ticker.join()
        # A watch that is late itself blames nobody.
        return task_id if any(STACK in line.extra for line in await manager.logs(task_id)) else None

    async with serving(app, lifespan="on") as served:
        late = await manager.enqueue(waits_for_the_bank)
        await manager.wait(late, WAIT)
        held = await manager.enqueue(stubborn)

        async def runs() -> bool:
            return (await manager.get(held)).status is TaskStatus.RUNNING

        await eventually(runs, "the start of the stubborn task")
        await manager.cancel(held)
        await eventually(lambda: stuck(manager) == 1, "the report that it is stuck")
        found: list[str] = []

        async def reported() -> bool:
            found.extend(filter(None, [await blocked()]))
            return bool(found)

        await eventually(reported, "the block to be blamed on the task", timeout=90)
        page = await browser.new_page()
        card = page.get_by_role("region", name="Stacks")
        for task_id, place, why in (
            (late, "in waits_for_the_bank", "its timeout of 0.05 s has passed"),
            (held, "in stubborn", "it was asked to stop 0.05 s ago and still runs"),
            (found[0], "in reckons", "it blocked the event loop for"),
        ):
            await page.goto(f"{served.url}/tasks/dashboard?view=task&id={task_id}")
            await expect(card.locator("summary")).to_contain_text(why)
            await expect(card.locator(".frame").filter(has_text=place)).to_be_visible()
        mark = page.get_by_role("button", name="blocked the event loop")
        await expect(mark).to_have_attribute("title", re.compile("^1 time, the last one at "))
        hold.set()
        await page.close()
