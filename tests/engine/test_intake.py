"""Two callers with one idempotency key: no one gets a task that the ledger does not hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.enqueue import EnqueueOptions
from taskflow_otel.model.query import Instance
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.testing.backends.samples import finish, make_task
from taskflow_otel.testing.clock import FakeClock, settle
from tests.managers import HeldBackend, inserts, started

KEY = EnqueueOptions(idempotency_key="k")


class Held(MemoryBackend):
    """Keeps inserts waiting until the test opens the gate; refuses the first task for good, if told to."""

    def __init__(self, *, refuses_first: bool = False) -> None:
        super().__init__(durable=True)
        self.gate = asyncio.Event()
        self._refuses_first = refuses_first
        self._first: str | None = None

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        inserted = [change.record.task_id for change in changes if isinstance(change, Insert)]
        if inserted:
            self._first = self._first or inserted[0]
            await self.gate.wait()
        if self._refuses_first and self._first in inserted:
            raise BackendError("this one is at fault", transient=False)
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
    backend.gate.set()
    assert await first == await second
    await manager.shutdown()


async def test_a_second_caller_does_not_fail_with_the_commit_of_the_first() -> None:
    backend = Held(refuses_first=True)
    manager = TaskManager(snapshot_backend=backend)
    job = manager.task(persist=True)(nothing)
    await manager.startup()
    first = asyncio.create_task(manager.enqueue(job, idempotency_key="k"))
    await settle()
    second = asyncio.create_task(manager.enqueue(job, idempotency_key="k"))
    await settle()
    backend.gate.set()
    with pytest.raises(BackendError, match="at fault"):
        await first
    kept = await second
    assert (await manager.wait(kept, timeout=60)).status is TaskStatus.SUCCESS
    await manager.shutdown()


async def test_a_request_that_fails_leaves_its_key_to_the_next() -> None:
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=True))
    job = manager.task(persist=True)(nothing)
    await manager.startup()
    failing = manager.engine.door.add(job, (), {}, KEY)
    second = await manager.enqueue(job, idempotency_key="k")
    assert failing.task is not None
    manager.engine.door.withdraw([failing.task], Reason.REQUEST_FAILED)
    assert second != failing.task_id
    assert (await manager.wait(second, timeout=60)).status is TaskStatus.SUCCESS
    await manager.shutdown()


async def test_a_key_that_a_task_elsewhere_has_released_is_free_here_too() -> None:
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


async def test_a_key_is_not_answered_for_from_memory_once_the_lease_may_have_run_out() -> None:
    class CutOff(MemoryBackend):
        cut = False

        async def beat(self, instance: Instance) -> bool:
            if self.cut:
                raise BackendUnavailableError("the heartbeat does not get through")
            return await super().beat(instance)

    backend, clock = CutOff(durable=True), FakeClock()
    manager = TaskManager(snapshot_backend=backend, clock=clock, lease_seconds=10)
    job = manager.task(persist=True)(nothing)
    await manager.startup()
    first = await manager.enqueue(job, idempotency_key="k", delay=3600)
    assert await manager.enqueue(job, idempotency_key="k", delay=3600) == first
    backend.cut = True
    await clock.advance(11)
    [taken] = await backend.take_over({manager.engine.instance_id}, "other", None, 10)
    await backend.apply([Update(finish(taken, TaskStatus.INTERRUPTED))])
    asking = asyncio.create_task(manager.enqueue(job, idempotency_key="k", delay=3600))
    await settle()
    assert not asking.done(), "nothing is written before it is known whether this instance was declared dead"
    backend.cut = False
    await clock.advance(1)
    assert await asking != first
    await manager.shutdown()


async def test_a_task_that_was_taken_over_while_it_ran_does_not_answer_for_its_key() -> None:
    backend, clock = MemoryBackend(durable=True), FakeClock()
    manager = TaskManager(snapshot_backend=backend, clock=clock, lease_seconds=10)
    goes_on = asyncio.Event()

    @manager.task(persist=True)
    async def stubborn() -> None:
        while not goes_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await goes_on.wait()

    await manager.startup()
    first = await manager.enqueue(stubborn, idempotency_key="k")
    await settle()
    [itself] = await backend.instances()
    assert await backend.declare_dead(itself.instance_id, itself.heartbeat_at)
    [taken] = await backend.take_over({itself.instance_id}, "other", None, 10)
    await backend.apply([Update(finish(taken, TaskStatus.INTERRUPTED))])
    await clock.advance(3)
    assert manager.engine.instance_id != itself.instance_id
    assert await manager.enqueue(stubborn, idempotency_key="k") != first
    goes_on.set()
    await settle()
    await manager.shutdown()


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
async def test_a_delay_is_a_length_of_time_whatever_is_done_to_the_clock(hours: int) -> None:
    clock, ran = FakeClock(), list[float]()
    manager = TaskManager(clock=clock)

    @manager.task()
    async def job() -> None:
        ran.append(clock.monotonic())

    async with started(manager):
        await manager.enqueue(job, delay=60)
        clock.set_wall(clock.now() + timedelta(hours=hours))
        await clock.advance(59)
        assert ran == []
        await clock.advance(2)
    assert ran == [60]


async def test_a_backend_that_keeps_commits_waiting_counts_as_failing_before_they_are_given_up() -> None:
    backend, clock = HeldBackend(), FakeClock()
    manager = TaskManager(snapshot_backend=backend, clock=clock)

    @manager.task(persist=True)
    async def job() -> None: ...

    async with started(manager):
        backend.hold = inserts
        waiting = asyncio.create_task(manager.enqueue(job))
        await backend.holding.wait()
        assert not manager.engine.vitals.backend_failing
        await clock.advance(2)
        assert manager.engine.vitals.backend_failing
        assert not waiting.done()
        backend.release()
        await waiting
        assert not manager.engine.vitals.backend_failing
