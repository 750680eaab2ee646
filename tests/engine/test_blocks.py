"""A task that keeps the event loop: counted, and said in its log."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.engine import blocks
from taskflow_otel.engine.blocks import NO_TASK, Suspect
from taskflow_otel.engine.stacks import STACK
from taskflow_otel.exporters import signals
from taskflow_otel.runtime.block_watch import BlockWatch
from taskflow_otel.runtime.owned_tasks import OwnedTasks
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


async def test_an_asyncio_task_that_a_task_has_made_counts_for_it() -> None:
    manager = TaskManager(blocked_after=0.05)
    looks: list[bool] = []

    async def inner() -> None:
        _keep_the_loop(lambda: len(looks) >= 40)

    @manager.task()
    async def makes() -> None:
        await asyncio.create_task(inner())

    async with started(manager):

        async def reported() -> bool:
            looks.clear()
            ticker = threading.Thread(target=lambda: looks.extend(threading.Event().wait(0.01) for _ in range(40)))
            ticker.start()
            await manager.wait(await manager.enqueue(makes), WAIT)
            ticker.join()
            return blocked(manager, "makes") > 0

        await eventually(reported, "the block to be blamed on the task")
        tasks = manager.store.recent()
        found = [line for task in tasks for line in await manager.logs(task.task_id) if STACK in line.extra]
    assert any("an asyncio task that it has made blocked the event loop" in line.message for line in found)
    assert all(" in inner: " in line.extra[STACK][0] for line in found)


class Watched(BlockWatch[Suspect]):
    """A watch that does not watch, and says whom it would blame."""

    who: Callable[[asyncio.Task[Any]], Suspect | None]

    def __init__(
        self, after: float, busy: Any, who: Callable[[asyncio.Task[Any]], Suspect | None], on_block: Any, clock: Any
    ) -> None:
        super().__init__(after, lambda: False, who, on_block, clock)
        Watched.who = staticmethod(who)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """A manager whose watch is asked by the test."""
    monkeypatch.setattr(blocks, "BlockWatch", Watched)
    return TaskManager()


@pytest.mark.parametrize("make", ["create_task", "gather", "TaskGroup"])
async def test_an_asyncio_task_is_of_the_task_that_has_made_it_as_long_as_that_runs(
    watched: TaskManager, make: str
) -> None:
    inside: list[asyncio.Task[Any]] = []
    found: list[Suspect | None] = []
    end = asyncio.Event()

    async def own_work() -> None:
        inside.extend(filter(None, [asyncio.current_task()]))
        found.append(Watched.who(inside[0]))
        await end.wait()

    @watched.task()
    async def makes() -> None:
        if make == "create_task":
            await asyncio.wait([asyncio.create_task(own_work())], timeout=0.01)
        elif make == "gather":
            asyncio.gather(own_work(), own_work())
            await asyncio.sleep(0)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(own_work())
                await asyncio.sleep(0)
                end.set()

    async with started(watched):
        task_id = await watched.enqueue(makes)
        await watched.wait(task_id, WAIT)
        first = found[0]
        assert first is not None
        assert (first.task.id, first.code) == (task_id, own_work.__code__)
        # What has outlived its attempt is nobody's fault.
        assert [Watched.who(one) for one in inside] == [None] * len(inside)
        end.set()
        await asyncio.wait(inside)


async def test_work_of_the_engine_in_the_context_of_a_task_is_not_its_fault(watched: TaskManager) -> None:
    found: list[Suspect | None] = []

    @watched.task()
    async def asks() -> None:
        mine = asyncio.create_task(own_work())
        engines = asyncio.create_task(OwnedTasks(lambda _: None).stop())
        found.extend(Watched.who(one) for one in (mine, engines))
        await asyncio.gather(mine, engines)

    async def own_work() -> None: ...

    async with started(watched):
        task_id = await watched.enqueue(asks)
        await watched.wait(task_id, WAIT)
    mine, engines = found
    assert mine is not None
    assert (mine.task.id, mine.code) == (task_id, own_work.__code__)
    assert engines is None


async def test_without_a_limit_nobody_watches() -> None:
    before = {thread.name for thread in threading.enumerate()}
    async with started(TaskManager(blocked_after=None)):
        assert {thread.name for thread in threading.enumerate()} - before - {"taskflow-garbage"} == set()
