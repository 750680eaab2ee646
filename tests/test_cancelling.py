"""Ending a task from outside: cancellation and timeouts, in the event loop and in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from taskflow_otel import (
    QueueConfig,
    TaskManager,
    TaskStateError,
    TaskStatus,
    get_task_context,
)
from taskflow_otel.testing.clock import FakeClock, settle
from tests.managers import WAIT, Gate, finish, started, status_of


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with started(TaskManager()) as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def timed(clock: FakeClock) -> AsyncIterator[TaskManager]:
    """A manager whose time the test turns."""
    async with started(TaskManager(clock=clock, queues={"one": QueueConfig(concurrency=1)})) as running:
        yield running


async def test_a_cancelled_pending_task_never_runs(timed: TaskManager) -> None:
    gate = Gate()
    ran: list[int] = []
    blocker = await timed.enqueue(gate.run, queue="one")
    await gate.entered.wait()
    waiting = await timed.enqueue(ran.append, 1, queue="one")
    record = await timed.cancel(waiting)
    assert (record.status, record.reason) == (TaskStatus.CANCELLED, "cancelled")
    gate.opened.set()
    await finish(timed, blocker)
    await settle()
    assert ran == []
    assert timed.queue_stats()["one"].ready == 0


async def test_a_task_that_waits_for_its_time_or_its_retry_can_be_cancelled(
    timed: TaskManager, clock: FakeClock
) -> None:
    runs: list[int] = []

    @timed.task(retries=5, delay=10)
    async def fails() -> None:
        runs.append(1)
        raise ValueError("no")

    delayed, retrying = await timed.enqueue(fails, delay=10), await timed.enqueue(fails)
    await settle()
    for task_id in (delayed, retrying):
        assert (await timed.cancel(task_id)).status is TaskStatus.CANCELLED
    await clock.advance(1000)
    assert runs == [1]
    assert timed.queue_stats()["default"].delayed == 0


async def test_cancelling_a_running_task_reaches_the_function_and_leaves_its_siblings_alone(
    manager: TaskManager,
) -> None:
    victim, sibling = Gate(), Gate()
    victim_id, sibling_id = await manager.enqueue(victim.run), await manager.enqueue(sibling.run)
    await victim.entered.wait()
    await sibling.entered.wait()
    await manager.cancel(victim_id)
    record = await finish(manager, victim_id)
    assert (record.status, record.reason) == (TaskStatus.CANCELLED, "cancelled")
    assert victim.cancelled
    assert not sibling.cancelled
    assert await status_of(manager, sibling_id) is TaskStatus.RUNNING
    sibling.opened.set()
    assert (await finish(manager, sibling_id)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("way", ["returns", "raises"])
async def test_a_thread_is_asked_to_stop_and_stays_running_until_it_does(manager: TaskManager, way: str) -> None:
    entered, may_look = threading.Event(), threading.Event()

    def work() -> None:
        context = get_task_context()
        entered.set()
        while not context.cancelled:
            may_look.wait(0.01)
        may_look.wait(WAIT)
        context.raise_if_cancelled()

    def work_that_returns() -> None:
        context = get_task_context()
        entered.set()
        while not context.cancelled:
            may_look.wait(0.01)
        may_look.wait(WAIT)

    task_id = await manager.enqueue(work if way == "raises" else work_that_returns)
    await asyncio.to_thread(entered.wait, WAIT)
    record = await manager.cancel(task_id)
    assert (record.status, record.cancel_requested) == (TaskStatus.RUNNING, True)
    may_look.set()
    record = await finish(manager, task_id)
    # One that returns has done its work: that is a success, and no one is told otherwise.
    assert record.status is (TaskStatus.CANCELLED if way == "raises" else TaskStatus.SUCCESS)


async def test_what_has_finished_cannot_be_cancelled(manager: TaskManager) -> None:
    task_id = await manager.enqueue(lambda: None)
    await finish(manager, task_id)
    with pytest.raises(TaskStateError, match="is success already"):
        await manager.cancel(task_id)


async def test_a_timeout_counts_as_a_failed_attempt(manager: TaskManager) -> None:
    attempts: list[int] = []

    @manager.task(timeout=0.02, retries=1)
    async def slow() -> None:
        attempts.append(get_task_context().attempt)
        await asyncio.Event().wait()

    record = await finish(manager, await manager.enqueue(slow))
    assert attempts == [0, 1]
    assert (record.status, record.reason) == (TaskStatus.FAILED, "timeout")
    assert record.error_type == "taskflow_otel.errors.TaskTimeoutError"
    assert "after its timeout of 0.02 s" in (record.error or "")


async def test_a_thread_that_overstays_its_timeout_is_asked_to_stop_and_has_failed(manager: TaskManager) -> None:
    @manager.task(timeout=0.02)
    def slow() -> None:
        context = get_task_context()
        pause = threading.Event()
        while not context.cancelled:
            pause.wait(0.005)

    record = await finish(manager, await manager.enqueue(slow))
    assert (record.status, record.reason) == (TaskStatus.FAILED, "timeout")


async def test_a_timeout_error_of_the_function_itself_is_an_ordinary_failure(manager: TaskManager) -> None:
    @manager.task(timeout=60)
    async def raises() -> None:
        raise TimeoutError("of my own")

    record = await finish(manager, await manager.enqueue(raises))
    assert (record.status, record.reason, record.error) == (TaskStatus.FAILED, None, "of my own")
