"""Cancellations that another instance asks for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from taskflow_otel import (
    TaskManager,
    TaskStatus,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.testing.clock import FakeClock
from tests.inside import own_context
from tests.managers import started
from tests.waiting import eventually


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_a_cancel_on_another_instance_reaches_the_owner(executor: str) -> None:
    clock = FakeClock()
    backend = MemoryBackend(durable=True)
    owner, other = (TaskManager(snapshot_backend=backend, clock=clock) for _ in range(2))
    entered = threading.Event()

    async def wait() -> None:
        entered.set()
        await asyncio.Event().wait()

    def spin() -> None:
        entered.set()
        while True:
            own_context().raise_if_cancelled()

    function = wait if executor == "async" else spin
    for manager in (owner, other):
        manager.task(name="job", persist=True)(function)
    async with started(owner), started(other):
        task_id = await owner.enqueue(function)
        await eventually(entered.is_set, "the task to run")
        asked = await other.cancel(task_id)
        assert (asked.status, asked.cancel_requested) == (TaskStatus.RUNNING, True)
        # The owner looks with each heartbeat.
        await clock.advance(1)
        assert (await owner.wait(task_id, timeout=30)).status is TaskStatus.CANCELLED
        assert (await other.get(task_id)).status is TaskStatus.CANCELLED


async def test_a_pending_task_is_cancelled_from_another_instance() -> None:
    clock = FakeClock()
    backend = MemoryBackend(durable=True)
    owner, other = (TaskManager(snapshot_backend=backend, clock=clock) for _ in range(2))

    async def job() -> None:
        pytest.fail("it ran")

    for manager in (owner, other):
        manager.task(name="job", persist=True)(job)
    async with started(owner), started(other):
        task_id = await owner.enqueue(job, delay=60)
        await other.cancel(task_id)
        await clock.advance(1)
        assert (await other.get(task_id)).status is TaskStatus.CANCELLED
        await clock.advance(120)
