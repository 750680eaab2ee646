"""One firing: committed once, whatever the backend, the queue and the run before it do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskflow_otel import (
    QueueConfig,
    TaskStatus,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.testing.clock import settle
from tests.engine.schedules.plant import Plant, every, seconds_of
from tests.managers import Gate
from tests.waiting import eventually


class Troubled(MemoryBackend):
    """A backend that fails on demand."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.trouble: Exception | None = None

    async def apply(self, changes: Any) -> list[Applied]:
        self._fail()
        return await super().apply(changes)

    async def latest_once(self, prefix: str) -> tuple[str, str] | None:
        self._fail()
        return await super().latest_once(prefix)

    async def settings(self, prefix: str) -> dict[str, str]:
        self._fail()
        return await super().settings(prefix)

    def _fail(self) -> None:
        if self.trouble is not None:
            raise type(self.trouble)(*self.trouble.args)


async def test_a_backend_that_is_down_delays_a_firing_and_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    backend = Troubled()
    plant = Plant(every(10), snapshot_backend=backend, commit_timeout=2.0)
    async with plant.running() as manager:
        await plant.clock.advance(11)
        backend.trouble = BackendUnavailableError("the wire is cut")
        await plant.clock.advance(34)
        [status] = manager.schedules()
        assert status.errors >= 1
        assert status.last_error is not None
        assert "not committed" in status.last_error
        backend.trouble = None
        await plant.clock.advance(20)
        assert manager.schedules()[0].missed == 2
        counted = manager.metrics.registry.get_sample_value("taskflow_schedule_errors_total", {"schedule": "job"})
        assert counted is not None
        assert counted >= 1
    # The one that was under way when the backend went is kept; those behind it are late by the policy.
    assert await plant.times() == [10, 20, 50, 60]
    assert "the schedule 'job' could not fire" in caplog.text
    assert "the schedule 'job' fires again" in caplog.text


async def test_a_backend_that_is_down_at_the_start_is_waited_for() -> None:
    backend = Troubled()
    plant = Plant(every(10, catch_up="all"), snapshot_backend=backend)
    async with plant.running():
        await plant.clock.advance(11)
    backend.trouble = None
    manager = plant.manager()
    await manager.startup()
    backend.trouble = BackendUnavailableError("the wire is cut")
    await plant.clock.advance(25)
    backend.trouble = None
    await plant.clock.advance(30)
    await manager.shutdown()
    assert await plant.times() == [10, 20, 30, 40, 50, 60]


async def test_an_unexpected_error_while_firing_is_counted_logged_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = Troubled()
    plant = Plant(every(20, overlap="skip"), snapshot_backend=backend)
    async with plant.running() as manager:
        backend.trouble = ZeroDivisionError("a bug")
        await plant.clock.advance(22)
        backend.trouble = None
        await plant.clock.advance(10)
        assert await plant.times() == [20]
        backend.trouble = ZeroDivisionError("a bug")
        await plant.clock.advance(35)
        backend.trouble = None
        await plant.clock.advance(20)
        [status] = manager.schedules()
        assert status.errors > 2
        assert status.missed == 1
        assert status.last_error == "a bug"
    assert await plant.times() == [20, 60, 80]
    assert "ZeroDivisionError" in caplog.text
    assert "gave up its firing" in caplog.text


async def test_a_full_queue_is_an_error_of_the_schedule_and_shown_as_a_refused_task() -> None:
    gate = Gate()
    options: dict[str, Any] = {"queues": {"small": QueueConfig(concurrency=1, max_size=1)}}
    plant = Plant(lambda manager: manager.schedule(every=10, name="job", queue="small")(gate.run), **options)
    async with plant.running() as manager:
        await plant.clock.advance(35)
        [status] = manager.schedules()
        assert status.errors >= 1
        assert status.last_error is not None
        assert "is full" in status.last_error
        gate.opened.set()
        await plant.clock.advance(20)
        assert len(await plant.times(status=TaskStatus.SUCCESS)) >= 4
    refused = await plant.records(status=TaskStatus.REJECTED)
    assert {record.reason for record in refused} == {"queue_full"}


async def test_a_run_that_has_not_ended_lets_no_second_one_start() -> None:
    gate = Gate()

    async def job() -> None:
        await gate.run()

    plant = Plant(lambda manager: manager.schedule(every=10, overlap="skip")(job))
    async with plant.running() as one, plant.running() as two:
        await plant.clock.advance(31)
        [first, *skipped] = await plant.records()
        assert first.status is TaskStatus.RUNNING
        assert [(seconds_of(r), r.status, r.reason, r.duplicate_of) for r in skipped] == [
            (moment, TaskStatus.REJECTED, "overlap", first.task_id) for moment in (20, 30)
        ]
        assert one.schedules()[0].missed + two.schedules()[0].missed == 2
        gate.opened.set()
        await plant.clock.advance(10)
    assert await plant.times(status=TaskStatus.SUCCESS) == [10, 40]


async def test_runs_overlap_by_default() -> None:
    gate = Gate()
    plant = Plant(lambda manager: manager.schedule(every=10, name="job")(gate.run))
    async with plant.running():
        await plant.clock.advance(31)
        assert await plant.times(status=TaskStatus.RUNNING) == [10, 20, 30]
        gate.opened.set()


async def test_a_run_at_start_up_is_made_by_one_of_the_instances_that_start_together() -> None:
    plant = Plant(every(3_600, run_on_startup=True))
    for lives in (1, 2):
        async with plant.running(), plant.running():
            await plant.clock.advance(1)
            async with plant.running():
                await plant.clock.advance(1)
                assert len(await plant.records()) == lives


async def test_a_run_at_start_up_does_not_overlap_with_one_that_has_not_ended() -> None:
    gate = Gate()
    options: dict[str, Any] = {"run_on_startup": True, "overlap": "skip", "requeue_on_interrupt": True}
    plant = Plant(
        lambda manager: manager.schedule(every=60, name="job", **options)(gate.run),
        shutdown_timeout=0,
    )
    async with plant.running():
        await plant.clock.advance(61)
        # The run of the start is in the way of the first firing.
        assert [record.reason for record in await plant.records(status=TaskStatus.REJECTED)] == ["overlap"]
    [unfinished] = await plant.records(status=TaskStatus.PENDING)
    async with plant.running() as manager:
        await plant.clock.advance(1)
        [_, blocked] = await plant.records(status=TaskStatus.REJECTED)
        assert (blocked.reason, blocked.duplicate_of) == ("overlap", unfinished.task_id)
        assert manager.schedules()[0].missed == 1
        gate.opened.set()
        await plant.clock.advance(1)
    assert [record.task_id for record in await plant.records(status=TaskStatus.SUCCESS)] == [unfinished.task_id]


async def test_a_commit_under_way_at_shutdown_is_neither_lost_nor_repeated() -> None:
    class Slow(MemoryBackend):
        held = asyncio.Event()
        waiting = asyncio.Event()
        slow = False

        async def apply(self, changes: Any) -> list[Applied]:
            applied = await super().apply(changes)
            if self.slow and any(_is_firing(change) for change in changes):
                self.waiting.set()
                await self.held.wait()
            return applied

    backend = Slow(durable=True)
    plant = Plant(every(10), snapshot_backend=backend)
    manager = plant.manager()
    await manager.startup()
    await settle()
    backend.slow = True
    await plant.clock.advance(10)
    await asyncio.wait_for(backend.waiting.wait(), 30)
    stopping = asyncio.create_task(manager.shutdown())
    await settle()
    backend.slow = False
    backend.held.set()
    await plant.clock.advance(0.5)
    await asyncio.wait_for(stopping, 30)
    async with plant.running() as second:
        await plant.clock.advance(1)
        await eventually(lambda: not second.store.list(), "the firing to be made up for")
    assert [record.status for record in await plant.records()] == [TaskStatus.SUCCESS]


def _is_firing(change: Change) -> bool:
    return getattr(change, "once", None) is not None
