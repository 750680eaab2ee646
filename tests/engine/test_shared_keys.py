"""Two callers with one idempotency key: nobody is told of a task that the ledger does not hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.engine.enqueue import EnqueueOptions
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.backends.samples import finish, make_task
from taskflow_otel.testing.clock import settle

KEY = EnqueueOptions(idempotency_key="k")


class Held(MemoryBackend):
    """Keeps every insert waiting until the test lets it through, or refuses it."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        if any(isinstance(change, Insert) for change in changes):
            await self.gate
        return await super().apply(changes)


async def nothing() -> None:
    pass


async def test_a_second_caller_is_not_answered_before_the_first_is_committed() -> None:
    backend = Held()
    manager = TaskManager(snapshot_backend=backend)
    job = manager.task(persist=True)(nothing)
    await manager.startup()
    first = asyncio.create_task(manager.enqueue(job, idempotency_key="k"))
    await settle()
    second = asyncio.create_task(manager.enqueue(job, idempotency_key="k"))
    await settle()
    assert not first.done()
    assert not second.done()
    backend.gate.set_result(None)
    assert await first == await second
    await manager.shutdown()


async def test_a_second_caller_does_not_fail_with_the_commit_of_the_first() -> None:
    backend = Held()
    manager = TaskManager(snapshot_backend=backend)
    job = manager.task(persist=True)(nothing)
    await manager.startup()
    first = asyncio.create_task(manager.enqueue(job, idempotency_key="k"))
    await settle()
    second = asyncio.create_task(manager.enqueue(job, idempotency_key="k"))
    await settle()
    gate, backend.gate = backend.gate, asyncio.get_running_loop().create_future()
    gate.set_exception(BackendError("this one is at fault", transient=False))
    backend.gate.set_result(None)
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    [kept] = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert (await manager.wait(kept, timeout=10)).status is TaskStatus.SUCCESS
    await manager.shutdown()


async def test_a_request_that_fails_leaves_its_key_to_the_next() -> None:
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=True))
    job = manager.task(persist=True)(nothing)
    await manager.startup()
    failing = manager.engine.create(job, (), {}, KEY)
    second = await manager.enqueue(job, idempotency_key="k")
    assert failing.task is not None
    manager.engine.discard([failing.task], "request_failed")
    assert second != failing.task_id
    assert (await manager.wait(second, timeout=10)).status is TaskStatus.SUCCESS
    await manager.shutdown()


async def test_a_key_that_a_task_elsewhere_has_let_go_of_is_free_here_too() -> None:
    backend = MemoryBackend(durable=True)
    elsewhere = make_task(instance="other", idempotency_key="k")
    await backend.apply([Insert(elsewhere)])
    manager = TaskManager(snapshot_backend=backend)
    job = manager.task(persist=True)(nothing)
    await manager.startup()
    assert await manager.enqueue(job, idempotency_key="k") == elsewhere.task_id
    await backend.apply([Update(finish(elsewhere, TaskStatus.FAILED))])
    assert await manager.enqueue(job, idempotency_key="k") != elsewhere.task_id
    await manager.shutdown()
