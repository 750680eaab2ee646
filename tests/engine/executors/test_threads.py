"""Task functions in threads: asked to stop, late and deaf."""

from __future__ import annotations

import threading

import pytest

from taskflow_otel import (
    TaskManager,
    TaskStatus,
)
from taskflow_otel.testing.clock import FakeClock, settle
from tests.inside import own_context
from tests.managers import started, stuck
from tests.waiting import eventually


async def test_a_thread_is_asked_stays_running_and_is_reported_as_stuck_until_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    manager = TaskManager(clock=clock, cancel_grace=5)
    entered, release = threading.Event(), threading.Event()

    @manager.task()
    def deaf() -> None:
        entered.set()
        release.wait()

    async with started(manager):
        task_id = await manager.enqueue(deaf)
        await eventually(entered.is_set, "the thread to run")
        record = await manager.cancel(task_id)
        assert (record.status, record.cancel_requested) == (TaskStatus.RUNNING, True)
        await clock.advance(4)
        assert stuck(manager) == 0
        await clock.advance(2)
        assert stuck(manager) == 1
        assert f"task {task_id} (deaf) was asked to stop 5 s ago and still runs" in caplog.text
        assert (await manager.get(task_id)).status is TaskStatus.RUNNING
        release.set()
        # It did what it was to do: the outcome says so.
        record = await manager.wait(task_id, timeout=30)
        assert (record.status, record.cancel_requested) == (TaskStatus.SUCCESS, True)
        await settle()
        assert stuck(manager) == 0


async def test_a_thread_that_looks_at_its_context_ends_cancelled() -> None:
    manager = TaskManager()
    entered = threading.Event()

    @manager.task(retries=3)
    def attentive() -> None:
        entered.set()
        context = own_context()
        while True:
            context.raise_if_cancelled()

    async with started(manager):
        task_id = await manager.enqueue(attentive)
        await eventually(entered.is_set, "the thread to run")
        await manager.cancel(task_id)
        record = await manager.wait(task_id, timeout=30)
        assert (record.status, record.attempt) == (TaskStatus.CANCELLED, 0)


@pytest.mark.parametrize("deaf", [True, False])
async def test_a_thread_past_its_timeout_is_asked_and_counts_as_failed_once_it_ends(deaf: bool) -> None:
    clock = FakeClock()
    manager = TaskManager(clock=clock, cancel_grace=5)
    entered, release = threading.Event(), threading.Event()

    @manager.task(timeout=10)
    def slow() -> None:
        entered.set()
        while not release.is_set():
            if not deaf:
                own_context().raise_if_cancelled()

    async with started(manager):
        task_id = await manager.enqueue(slow)
        await eventually(entered.is_set, "the thread to run")
        await clock.advance(10)
        if deaf:
            await clock.advance(5)
            assert (await manager.get(task_id)).status is TaskStatus.RUNNING
            assert stuck(manager) == 1
            release.set()
        record = await manager.wait(task_id, timeout=30)
        assert (record.status, record.reason) == (TaskStatus.FAILED, "timeout")
        assert record.error_type == "taskflow_otel.errors.TaskTimeoutError"
        assert not record.cancel_requested, "nobody asked for a cancellation"
