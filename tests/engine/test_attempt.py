"""One attempt: how it ends, and whether another one follows."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from tests.engine.raising import (
    SHAPES,
    run_one,
)
from tests.managers import started


@pytest.mark.parametrize("executor", ["async", "thread"])
@pytest.mark.parametrize(("shape", "attempts"), [("base", 1), ("exit", 1), ("cancelled", 1), ("group", 3)])
async def test_only_an_exception_earns_another_attempt_unless_more_was_asked_for(
    executor: str, shape: str, attempts: int
) -> None:
    body, _, _ = SHAPES[shape]
    record = await run_one(TaskManager(), body, executor, retries=2)
    assert record.attempt + 1 == attempts
    everything = await run_one(TaskManager(), body, executor, retries=2, retry_on=BaseException)
    assert (everything.status, everything.attempt) == (TaskStatus.FAILED, 2)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_task_that_cancels_itself_and_returns_has_succeeded(durable: bool) -> None:
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=durable))

    @manager.task(persist=durable)
    async def job() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with started(manager):
        task_id = await manager.enqueue(job)
        assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.SUCCESS


async def test_a_timeout_of_the_users_own_is_an_ordinary_failure() -> None:
    manager = TaskManager()

    @manager.task(timeout=60, retries=1)
    async def job() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    async with started(manager):
        record = await manager.wait(await manager.enqueue(job), timeout=30)
    assert (record.status, record.error_type, record.attempt) == (TaskStatus.FAILED, "TimeoutError", 1)
    assert record.reason is None
