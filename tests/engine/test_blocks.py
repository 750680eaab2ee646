"""A task that keeps the event loop: counted, and said in its log."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.engine.blocks import NO_TASK
from taskflow_otel.engine.stacks import STACK
from taskflow_otel.exporters import signals
from tests.managers import WAIT, started
from tests.waiting import eventually

NAME = signals.LOOP_BLOCKED.name


def _keep_the_loop(until: Callable[[], bool]) -> None:
    while not until():
        threading.Event().wait(0.01)


def blocked(manager: TaskManager, task: str) -> float:
    """The seconds counted under this name."""
    value = manager.metrics.snapshot()[NAME][task,]
    assert isinstance(value, float)
    return value


async def test_the_blocked_time_is_counted_for_the_task_type_and_its_place_is_in_the_log_of_the_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = TaskManager(blocked_after=0.05)

    @manager.task()
    async def hogs() -> None:
        # Real time: long enough for a thread that waits for a twentieth of a second, however busy the machine is.
        _keep_the_loop(lambda: len(looks) >= 40)

    @manager.task()
    async def innocent() -> None: ...

    looks: list[bool] = []
    async with started(manager):
        assert (blocked(manager, "hogs"), blocked(manager, "innocent"), blocked(manager, NO_TASK)) == (0, 0, 0)

        async def reported() -> bool:
            # A watch that is late itself blames nobody, so it may take more than one.
            looks.clear()
            ticker = threading.Thread(target=lambda: looks.extend(threading.Event().wait(0.01) for _ in range(40)))
            ticker.start()
            task_id = await manager.enqueue(hogs)
            await manager.enqueue(innocent)
            await manager.wait(task_id, WAIT)
            ticker.join()
            return blocked(manager, "hogs") > 0

        await eventually(reported, "the block to be blamed on the task")
        said = re.search(r"task (\S+) \(hogs\) blocked the event loop for \d", caplog.text)
        assert said is not None
        lines = [line for line in await manager.logs(said[1]) if STACK in line.extra]
    assert len(lines) == 1
    assert lines[0].level == "warning"
    assert "in _keep_the_loop: it blocked the event loop for" in lines[0].message
    assert any(" in hogs: " in place for place in lines[0].extra[STACK])
    assert not any("taskflow_otel/" in place for place in lines[0].extra[STACK])
    assert blocked(manager, "innocent") == 0


async def test_without_a_limit_nobody_watches() -> None:
    before = {thread.name for thread in threading.enumerate()}
    async with started(TaskManager(blocked_after=None)):
        assert {thread.name for thread in threading.enumerate()} - before - {"taskflow-garbage"} == set()
