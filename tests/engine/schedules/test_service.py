"""The schedules of a manager: declared, paused, run by hand, and shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow_otel import (
    ConfigurationError,
    DuplicateTaskNameError,
    InMemoryLogger,
    NotStartedError,
    TaskManager,
    TaskStatus,
    UnknownScheduleError,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.engine.schedules.recurring import PAUSED
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.schedule import micros
from taskflow_otel.testing.clock import FakeClock, settle
from tests.engine.schedules.plant import START, Plant, every, nothing
from tests.managers import Gate, HeldBackend, inserts
from tests.waiting import eventually

_NOTICE = "schedules-changed"


def who(manager: TaskManager) -> tuple[str | None, datetime | None, str | None]:
    status = manager.schedules()[0]
    return status.paused_by, status.paused_since, status.paused_reason


async def test_a_pause_of_an_earlier_version_is_by_nobody_who_is_known() -> None:
    plant = Plant(every(10))
    since = datetime(2026, 1, 2, tzinfo=UTC)
    await plant.backend.put_setting(PAUSED + "job", json.dumps({"paused": True, "since": micros(since)}))
    async with plant.running() as manager:
        assert manager.schedules()[0].paused
        assert who(manager) == (None, since, None)


async def test_a_pause_holds_for_all_instances_and_over_restarts() -> None:
    plant = Plant(every(10, catch_up="all"))
    async with plant.running() as one, plant.running() as two:
        await plant.clock.advance(11)
        paused = await one.engine.schedules.pause("job", "ada", "the disk is full")
        since = paused.paused_since
        assert since is not None
        await plant.clock.advance(30)
        assert who(one) == who(two) == ("ada", since, "the disk is full")
        assert await plant.times() == [10]
        assert [manager.schedules()[0].paused for manager in (one, two)] == [True, True]
        assert two.schedules()[0].next_run is None
    async with plant.running() as third:
        await plant.clock.advance(30)
        assert third.schedules()[0].paused
        assert who(third) == ("ada", since, "the disk is full")
        async with plant.running() as fourth:
            await fourth.resume_schedule("job")
            assert who(fourth) == (None, None, None)
            await plant.clock.advance(10)
    # Of the time in which it was paused nothing is caught up.
    assert await plant.times() == [10, 80]
    async with plant.running():
        await plant.clock.advance(10)
    assert await plant.times() == [10, 80, 90]


@pytest.mark.parametrize("gives_up", ["the manager", "the caller"])
async def test_a_run_by_hand_that_the_backend_takes_too_late_never_runs(gives_up: str) -> None:
    backend = HeldBackend()
    plant = Plant(every(3_600), snapshot_backend=backend, commit_timeout=2.0)
    async with plant.running() as manager:
        backend.hold = inserts
        running = asyncio.ensure_future(manager.run_schedule("job"))
        await backend.holding.wait()
        if gives_up == "the manager":
            await plant.clock.advance(3)
            with pytest.raises(BackendUnavailableError, match="did not commit in time"):
                await running
        else:
            running.cancel()
            await asyncio.wait({running})
        backend.release()
        await settle()
        [record] = await plant.records(source="manual")
        assert (record.status, record.reason) == (TaskStatus.REJECTED, "commit_failed")


async def test_a_firing_that_is_committed_during_a_shutdown_is_published_and_runs_after_it() -> None:
    backend, told = HeldBackend(), InMemoryLogger()
    plant = Plant(every(10), snapshot_backend=backend, loggers=[told], shutdown_timeout=2.0)
    manager = plant.manager()
    await manager.startup()
    await plant.clock.advance(1)
    backend.hold = inserts
    await plant.clock.advance(10)
    await backend.holding.wait()
    stopping = asyncio.ensure_future(manager.shutdown())
    await eventually(lambda: manager.engine.schedules.firing == 0, "the end of the schedules")
    backend.release()
    await stopping
    async with plant.running() as after:
        await plant.clock.advance(5)
        [record] = await plant.records()
        assert (await after.wait(record.task_id, 10)).status is TaskStatus.SUCCESS
        [record] = await plant.records()
    assert [event.transition for event in told.lifecycle_events] == [entry.transition for entry in record.timeline]


class Forgetful(MemoryBackend):
    """A backend that does not answer to the next change of some settings; all but the notice of changes were made."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.loses = ""

    async def put_setting(self, key: str, value: str | None) -> None:
        loses = bool(self.loses) and key.startswith(self.loses)
        if not loses or self.loses != _NOTICE:
            await super().put_setting(key, value)
        if loses:
            self.loses = ""
            raise BackendUnavailableError("the answer was lost")


@pytest.mark.parametrize("loses", [PAUSED, _NOTICE])
async def test_a_pause_without_an_answer_holds_for_all_instances(loses: str) -> None:
    backend = Forgetful()
    plant = Plant(every(10), snapshot_backend=backend)
    async with plant.running() as one, plant.running() as two:
        await plant.clock.advance(2)
        backend.loses = loses
        with pytest.raises(BackendUnavailableError):
            await one.pause_schedule("job")
        await plant.clock.advance(5)
        assert [manager.schedules()[0].paused for manager in (one, two)] == [True, True]
        await plant.clock.advance(20)
    assert await plant.times() == []


@pytest.mark.parametrize("loses", ["run-at:", _NOTICE])
async def test_a_planned_run_without_an_answer_is_known_to_all_instances(loses: str) -> None:
    backend = Forgetful()
    plant = Plant(every(3_600), snapshot_backend=backend)
    async with plant.running() as two:
        async with plant.running() as one:
            await plant.clock.advance(2)
            backend.loses = loses
            with pytest.raises(BackendUnavailableError):
                await one.schedule_once(nothing, run_at=START + timedelta(seconds=30))
            await plant.clock.advance(5)
        await plant.clock.advance(30)
        assert [run.run_key for run in await two.list_scheduled()] == []
    assert await plant.times() == [30]


async def test_a_schedule_is_run_now_beside_its_rule() -> None:
    plant = Plant(every(3_600))
    async with plant.running() as manager:
        record = await manager.run_schedule("job")
        assert (record.source, record.tags, record.run_at) == ("manual", {"schedule": "job"}, None)
        assert (await manager.wait(record.task_id, 10)).status is TaskStatus.SUCCESS
        assert manager.schedules()[0].last_run is None
        with pytest.raises(UnknownScheduleError, match="no schedule named 'other'"):
            await manager.run_schedule("other")
        with pytest.raises(UnknownScheduleError):
            await manager.pause_schedule("other")
    with pytest.raises(NotStartedError):
        await manager.run_schedule("job")


async def test_one_function_may_have_several_schedules_and_be_a_task_besides() -> None:
    def declare(manager: TaskManager) -> None:
        @manager.schedule(every=20)
        @manager.schedule(every=15, name="often")
        @manager.schedule(every=30)
        @manager.task(retries=2, persist=True)
        async def report() -> None:
            """Report."""

        declared.append(report)

    declared: list[Any] = []
    plant = Plant(declare)
    async with plant.running() as manager:
        assert {status.name: status.rule for status in manager.schedules()} == {
            "report": "every 30 s",
            "often": "every 15 s",
            "report every 20 s": "every 20 s",
        }
        assert {status.func_name for status in manager.schedules()} == {"report"}
        await plant.clock.advance(31)
        assert await plant.times() == [15, 20, 30, 30]
        await manager.wait(await manager.enqueue(declared[0]), 10)


async def test_a_schedule_declared_while_the_manager_runs_fires_too() -> None:
    plant = Plant(lambda manager: None)
    async with plant.running() as manager:
        manager.schedule(every=10, name="late")(nothing)
        await plant.clock.advance(11)
        assert await plant.times() == [10]


async def test_wrong_declarations_are_refused_where_they_stand() -> None:
    manager = TaskManager()

    async def needs(address: str) -> None: ...

    async def optional(address: str = "x", *more: str, **others: str) -> None: ...

    with pytest.raises(ConfigurationError, match=r"without arguments \(missing a required argument: 'address'\)"):
        manager.schedule(every=1)(needs)
    manager.schedule(every=1, retries=3)(optional)
    with pytest.raises(ConfigurationError, match=r"is a task already, so schedule\(\) cannot give it retries, timeout"):
        manager.schedule(every=2, retries=1, timeout=5)(optional)
    with pytest.raises(ConfigurationError, match="already a schedule named 'optional'"):
        manager.schedule(every=2, name="optional")(optional)
    with pytest.raises(DuplicateTaskNameError):
        manager.schedule(every=2, name="optional")(nothing)
    with pytest.raises(ConfigurationError, match="catch_up must be one of"):
        manager.schedule(every=2, catch_up="none")(nothing)  # type: ignore[arg-type]  # this is the test
    with pytest.raises(ConfigurationError, match="there is no queue 'nope'"):
        manager.schedule(every=2, queue="nope")(nothing)
    assert [status.name for status in manager.schedules()] == ["optional"]


async def test_the_metrics_tell_of_every_schedule() -> None:
    gate = Gate()
    plant = Plant(lambda manager: manager.schedule(every=10, name="job", overlap="skip")(gate.run))
    async with plant.running() as manager:
        value = manager.metrics.registry.get_sample_value
        labels = {"schedule": "job"}
        assert value("taskflow_schedule_missed_total", labels) == 0
        assert value("taskflow_schedule_errors_total", labels) == 0
        assert value("taskflow_schedule_last_fire_timestamp_seconds", labels) is None
        await plant.clock.advance(21)
        assert value("taskflow_schedule_lateness_seconds_count", labels) == 1
        assert value("taskflow_schedule_missed_total", labels) == 1
        assert value("taskflow_schedule_last_fire_timestamp_seconds", labels) == START.timestamp() + 20
        assert value("taskflow_schedule_next_fire_timestamp_seconds", labels) == START.timestamp() + 30
        gate.opened.set()


class CountingClock(FakeClock):
    """Counts the requests to be woken."""

    asked = 0

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        self.asked += 1
        return super().call_later(delay, callback)


async def test_a_thousand_schedules_that_are_not_due_wake_nobody() -> None:
    async def wakes(number: int) -> int:
        def declare(manager: TaskManager) -> None:
            for n in range(number):
                manager.schedule(cron=f"{n % 60} 12 * * *", name=f"job-{n}")(nothing if n == 0 else make())

        def make() -> Callable[[], None]:
            return lambda: None

        plant = Plant(declare)
        plant.clock = clock = CountingClock(START)
        async with plant.running() as manager:
            await eventually(lambda: all(s.next_run for s in manager.schedules()), "all schedules to be read")
            await clock.advance(1)
            before = clock.asked
            await clock.advance(60)
            return clock.asked - before

    assert await wakes(1_000) - await wakes(0) < 30
