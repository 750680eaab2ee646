"""The stack of a running task, in its log: when someone asks, at a timeout, and when it does not stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.engine.stacks import STACK
from taskflow_otel.errors import TaskNotFoundError, TaskStateError
from taskflow_otel.model.record import LogEntry
from taskflow_otel.model.vocabulary import ExecutorKind
from tests.engine import stack_tasks
from tests.engine.stack_tasks import line_with
from tests.managers import WAIT, started
from tests.waiting import eventually

ON_LOOP, IN_THREAD = "here on the loop", "here in a thread"
HANDLES: list[Any] = [
    pytest.param(ExecutorKind.ASYNC, stack_tasks.waits_on_the_loop, ON_LOOP, id="async"),
    pytest.param(ExecutorKind.THREAD, stack_tasks.waits_in_a_thread, IN_THREAD, id="thread"),
    pytest.param(ExecutorKind.THREAD, stack_tasks.returns_an_awaitable, ON_LOOP, id="thread-awaitable"),
    pytest.param(ExecutorKind.PROCESS, stack_tasks.waits_in_a_thread, IN_THREAD, id="process"),
    pytest.param(ExecutorKind.PROCESS, stack_tasks.returns_an_awaitable, ON_LOOP, id="process-awaitable"),
]
Function = Callable[..., Any]


async def lines(manager: TaskManager, task_id: str) -> list[LogEntry]:
    """The entries of a task's log that have a stack."""
    return [line for line in await manager.logs(task_id) if STACK in line.extra]


def release(marker: Path) -> None:
    """Let the function end that waits in a thread."""
    Path(f"{marker}-released").touch()


@pytest.mark.parametrize(("executor", "function", "mark"), HANDLES)
async def test_the_stack_of_a_running_task_is_written_into_its_log_when_someone_asks(
    executor: ExecutorKind, function: Function, mark: str, tmp_path: Path
) -> None:
    manager = TaskManager(cancel_grace=0.2, shutdown_timeout=1)
    task = manager.task(name="waits", executor=executor)(function)
    marker = tmp_path / "entered"
    async with started(manager):
        task_id = await manager.enqueue(task, str(marker))
        await eventually(marker.exists, "the task to run")

        async def asked() -> bool:
            # It may not have reached its line yet.
            await manager.ask_for_stack(task_id)
            return any(line_with(mark) in line.message for line in await lines(manager, task_id))

        await eventually(asked, "a stack of the line where it waits")
        line = next(line for line in await lines(manager, task_id) if line_with(mark) in line.message)
        assert (line.level, line.message.rpartition(": ")[2]) == ("info", "asked for")
        *outer, inner = line.extra[STACK]
        if mark == ON_LOOP:
            # Below it is the library function that it waits in.
            assert " in sleep: " in inner
            outer, inner = outer[:-1], outer[-1]
        assert inner.startswith(line_with(mark)), line.extra[STACK]
        assert outer == [] or outer[0].startswith(stack_tasks.__file__)
        assert not any("taskflow_otel/" in place for place in line.extra[STACK])
        assert "no stack may show" not in str(line)
        release(marker)
        await manager.cancel(task_id)


@pytest.mark.parametrize(("executor", "function", "mark"), HANDLES)
async def test_a_timeout_leaves_the_stack_from_before_the_attempt_was_stopped(
    executor: ExecutorKind, function: Function, mark: str, tmp_path: Path
) -> None:
    manager = TaskManager(cancel_grace=0.2, shutdown_timeout=1)
    task = manager.task(name="waits", executor=executor, timeout=0.5)(function)
    marker = tmp_path / "entered"
    async with started(manager):
        task_id = await manager.enqueue(task, str(marker))

        async def remembered() -> bool:
            return bool(await lines(manager, task_id))

        await eventually(remembered, "the stack to be written")
        release(marker)
        assert (await manager.wait(task_id, WAIT)).status is TaskStatus.FAILED
        found = await lines(manager, task_id)
        assert found[0].level == "warning"
        assert found[0].message.endswith(": its timeout of 0.5 s has passed")
        assert any(line_with(mark) in place for place in found[0].extra[STACK])


async def test_a_thread_that_does_not_stop_is_reported_with_its_stack(tmp_path: Path) -> None:
    manager = TaskManager(cancel_grace=0.1, shutdown_timeout=1)
    task = manager.task(name="waits")(stack_tasks.waits_in_a_thread)
    marker = tmp_path / "entered"
    async with started(manager):
        task_id = await manager.enqueue(task, str(marker))
        await eventually(marker.exists, "the task to run")
        await manager.cancel(task_id)

        async def reported() -> bool:
            return bool(await lines(manager, task_id))

        await eventually(reported, "the report")
        (line,) = await lines(manager, task_id)
        assert line.message.endswith(": it was asked to stop 0.1 s ago and still runs")
        release(marker)


async def test_only_a_task_that_runs_has_a_stack() -> None:
    manager = TaskManager()

    @manager.task()
    async def ends() -> None: ...

    async with started(manager):
        task_id = await manager.enqueue(ends)
        await manager.wait(task_id, WAIT)
        with pytest.raises(TaskStateError, match="is success and has no stack"):
            await manager.ask_for_stack(task_id)
        waiting = await manager.enqueue(ends, delay=60)
        with pytest.raises(TaskStateError, match="is pending and has no stack"):
            await manager.ask_for_stack(waiting)
        with pytest.raises(TaskNotFoundError):
            await manager.ask_for_stack("no-such-task")
