"""Recurring schedules on a clock that the test turns."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel import (
    ConfigurationError,
    DuplicateTaskNameError,
    NotStartedError,
    QueueConfig,
    TaskManager,
    TaskRecord,
    TaskStatus,
    Telemetry,
    UnknownScheduleError,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.clock import FakeClock, settle
from tests.engine.managers import HeldBackend, inserts
from tests.managers import Gate, started
from tests.waiting import eventually

START = datetime(2026, 1, 1, tzinfo=UTC)


async def nothing() -> None:
    """A job."""


def seconds_of(record: TaskRecord) -> float:
    assert record.run_at is not None
    return (record.run_at - START).total_seconds()


class Plant:
    """One backend and one clock, on which managers with the same schedules come and go."""

    def __init__(self, declare: Callable[[TaskManager], object], **options: Any) -> None:
        self.clock = FakeClock(START)
        self.backend = options.pop("snapshot_backend", None) or MemoryBackend(durable=True)
        self._declare = declare
        self._options = options

    def manager(self) -> TaskManager:
        manager = TaskManager(snapshot_backend=self.backend, clock=self.clock, **self._options)
        self._declare(manager)
        return manager

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TaskManager]:
        async with started(self.manager()) as manager:
            await settle()
            yield manager

    async def records(self, **query: Any) -> list[TaskRecord]:
        found: list[TaskRecord] = []
        cursor = None
        while True:
            page = await self.backend.page(
                TaskQuery(**{"source": "scheduled", "cursor": cursor, "limit": 500, **query})
            )
            found += page.records
            if (cursor := page.next_cursor) is None:
                return found[::-1]

    async def times(self, **query: Any) -> list[float]:
        """Firing times of the tasks made so far, in seconds since the start, sorted."""
        return sorted(seconds_of(record) for record in await self.records(**query))

    async def sleep_until(self, seconds: float) -> None:
        """Let time pass while nothing runs, or a host is suspended."""
        self.clock.set_wall(START + timedelta(seconds=seconds))


def every(seconds: float, **options: Any) -> Callable[[TaskManager], object]:
    return lambda manager: manager.schedule(every=seconds, name="job", **options)(nothing)


def cron(expression: str, **options: Any) -> Callable[[TaskManager], object]:
    return lambda manager: manager.schedule(cron=expression, name="job", **options)(nothing)


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "in one process"])
async def test_an_interval_fires_at_each_of_its_times(durable: bool) -> None:
    plant = Plant(every(0.2), snapshot_backend=MemoryBackend(durable=durable))
    async with plant.running() as manager:
        await plant.clock.advance(10)
        await eventually(lambda: len(manager.store.list()) == 0, "every run to end")
    assert await plant.times(status=TaskStatus.SUCCESS) == pytest.approx([n / 5 for n in range(1, 51)])


async def test_a_cron_expression_fires_by_the_wall_clock_of_its_zone() -> None:
    plant = Plant(cron("30 6 * * *", timezone="Asia/Kolkata"))
    async with plant.running() as manager:
        [status] = manager.schedules()
        assert status.next_run == START + timedelta(hours=1)
        assert (status.rule, status.timezone, status.func_name) == ("30 6 * * *", "Asia/Kolkata", "job")
        await plant.sleep_until(3_599)
        await plant.clock.advance(2)
        assert await plant.times() == [3_600]
        [status] = manager.schedules()
        assert status.last_run == START + timedelta(hours=1)
        assert status.next_run == START + timedelta(hours=25)


async def test_three_instances_fire_each_time_once() -> None:
    plant = Plant(every(1))
    async with plant.running() as one, plant.running() as two, plant.running() as three:
        await plant.clock.advance(20)
        last = {manager.schedules()[0].last_task_id for manager in (one, two, three)}
        assert len(last) == 1
    assert await plant.times() == list(range(1, 21))
    assert [record.reason for record in await plant.records(status=TaskStatus.REJECTED)] == []


async def test_a_task_of_a_schedule_bears_its_name_and_is_kept_like_a_persisted_one() -> None:
    plant = Plant(every(1))
    async with plant.running():
        await plant.clock.advance(1)
    [record] = await plant.records()
    assert record.tags == {"schedule": "job"}
    assert (record.persisted, record.reason, record.status) == (True, None, TaskStatus.SUCCESS)


@pytest.mark.parametrize(
    ("catch_up", "made_up", "missed"), [("skip", [], 10), ("latest", [660], 9), ("all", list(range(120, 661, 60)), 0)]
)
async def test_after_a_restart_missed_firings_follow_the_policy(
    catch_up: str, made_up: list[float], missed: int
) -> None:
    plant = Plant(every(60, catch_up=catch_up))
    async with plant.running():
        await plant.clock.advance(61)
    await plant.sleep_until(690)
    async with plant.running() as manager:
        await plant.clock.advance(1)
        assert manager.schedules()[0].missed == missed
        await plant.clock.advance(30)
    assert await plant.times() == [60, *made_up, 720]


async def test_a_short_deploy_loses_no_firing() -> None:
    plant = Plant(every(3_600))
    await plant.sleep_until(2 * 3_600 + 5)
    async with plant.running():
        pass
    await plant.sleep_until(3 * 3_600 - 5)
    async with plant.running():
        await plant.clock.advance(6)
    await plant.sleep_until(4 * 3_600 + 20)
    async with plant.running():
        await plant.clock.advance(1)
    assert await plant.times() == [3 * 3_600, 4 * 3_600]


async def test_a_restart_repeats_nothing() -> None:
    plant = Plant(every(60, catch_up="all"))
    for _ in range(4):
        async with plant.running():
            await plant.clock.advance(0.2)
        await plant.sleep_until(60.4)
        async with plant.running():
            await plant.clock.advance(0.2)
    assert await plant.times() == []
    plant.clock.set_wall(START + timedelta(seconds=59))
    for _ in range(4):
        async with plant.running():
            await plant.clock.advance(1.1)
        await plant.sleep_until(60.2)
    assert await plant.times() == [60]


async def test_a_daily_interval_fires_although_nothing_runs_for_a_day() -> None:
    plant = Plant(every(86_400))
    for day in range(1, 5):
        for hour in (-14, -7, -0.001):
            await plant.sleep_until(86_400 * day + 3_600 * hour)
            async with plant.running():
                await plant.clock.advance(5)
    assert await plant.times() == [86_400 * day for day in range(1, 5)]


@pytest.mark.parametrize(("catch_up", "fired"), [("skip", 0), ("latest", 1), ("all", 180)])
async def test_a_clock_that_is_set_forward_brings_no_storm_and_no_silence(catch_up: str, fired: int) -> None:
    plant = Plant(every(60, catch_up=catch_up))
    async with plant.running() as manager:
        await plant.clock.advance(61)
        await plant.sleep_until(61 + 180 * 60 + 30)
        await plant.clock.advance(3)
        await eventually(lambda: manager.schedules()[0].missed == 180 - fired, "the jump to be noticed")

        async def all_fired() -> bool:
            return len(await plant.times()) == 1 + fired

        await eventually(all_fired, "what is made up for to be stored, a transaction each")
        await plant.clock.advance(120)
    assert (await plant.times())[1 + fired :] == [10_920, 10_980]


async def test_a_clock_that_is_set_back_far_brings_no_storm_and_no_silence() -> None:
    plant = Plant(every(60))
    async with plant.running():
        await plant.clock.advance(301)
        plant.clock.set_wall(START + timedelta(seconds=1))
        await plant.clock.advance(300)
        assert Counter(await plant.times()) == dict.fromkeys([60, 120, 180, 240, 300], 2)
        await plant.clock.advance(60)
    assert Counter(await plant.times())[360] == 1


async def test_several_instances_whose_clock_is_set_back_go_on_with_one_firing_each_time() -> None:
    plant = Plant(every(60))
    async with plant.running(), plant.running(), plant.running():
        await plant.clock.advance(301)
        plant.clock.set_wall(START + timedelta(seconds=1))
        await plant.clock.advance(361)
    assert Counter(await plant.times()) == {**dict.fromkeys([60, 120, 180, 240, 300], 2), 360: 1}


async def test_a_clock_that_is_set_back_while_a_firing_is_committed_brings_no_silence() -> None:
    backend = HeldBackend()
    plant = Plant(every(60), snapshot_backend=backend)
    async with plant.running():
        await plant.clock.advance(3_700)
        backend.hold = inserts
        await plant.clock.advance(21)
        await backend.holding.wait()
        plant.clock.set_wall(START + timedelta(seconds=121))
        # The change of the clock is noticed, and the firing is still being committed.
        await plant.clock.advance(2)
        backend.release()
        await plant.clock.advance(300)
    assert [moment for moment, times in sorted(Counter(await plant.times()).items()) if times == 2] == [
        180, 240, 300, 360, 420,
    ]  # fmt: skip


async def test_a_restart_after_the_clock_was_set_back_is_not_silent() -> None:
    plant = Plant(every(60))
    async with plant.running():
        await plant.clock.advance(301)
    await plant.sleep_until(1)
    async with plant.running():
        await plant.clock.advance(361)
    assert Counter(await plant.times()) == {**dict.fromkeys([60, 120, 180, 240, 300], 2), 360: 1}


async def test_a_small_correction_of_the_clock_repeats_nothing() -> None:
    plant = Plant(every(60))
    async with plant.running():
        await plant.clock.advance(61)
        plant.clock.set_wall(START + timedelta(seconds=40))
        await plant.clock.advance(90)
    assert await plant.times() == [60, 120]


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
        assert manager.metrics.registry.get_sample_value("taskflow_schedule_errors_total", {"schedule": "job"}) >= 1
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
        lambda manager: manager.schedule(every=3_600, name="job", **options)(gate.run),
        shutdown_timeout=0,
    )
    async with plant.running():
        await plant.clock.advance(3_601)
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


@pytest.mark.parametrize("catch_up", ["all", "latest"])
async def test_a_changed_rule_makes_up_for_no_time_before_it_existed(catch_up: str) -> None:
    backend, clock = MemoryBackend(durable=True), FakeClock(START)
    lives = [cron("0 * * * *", catch_up=catch_up), cron("* * * * *", catch_up=catch_up)]
    old, new = (Plant(declare, snapshot_backend=backend) for declare in lives)
    old.clock = new.clock = clock
    async with old.running():
        await clock.advance(3_601)
    await new.sleep_until(3 * 3_600 + 30)
    async with new.running():
        await clock.advance(31)
    assert await new.times() == [3_600, 3 * 3_600 + 60]
    await new.sleep_until(3 * 3_600 + 240)
    async with new.running():
        await clock.advance(1)
    made_up = [3 * 3_600 + 120, 3 * 3_600 + 180, 3 * 3_600 + 240] if catch_up == "all" else [3 * 3_600 + 240]
    assert await new.times() == [3_600, 3 * 3_600 + 60, *made_up]


async def test_a_pause_holds_for_all_instances_and_over_restarts() -> None:
    plant = Plant(every(10, catch_up="all"))
    async with plant.running() as one, plant.running() as two:
        await plant.clock.advance(11)
        await one.pause_schedule("job")
        await plant.clock.advance(30)
        assert await plant.times() == [10]
        assert [manager.schedules()[0].paused for manager in (one, two)] == [True, True]
        assert two.schedules()[0].next_run is None
    async with plant.running() as third:
        await plant.clock.advance(30)
        assert third.schedules()[0].paused
        async with plant.running() as fourth:
            await fourth.resume_schedule("job")
            await plant.clock.advance(10)
    # Of the time in which it was paused nothing is caught up.
    assert await plant.times() == [10, 80]
    async with plant.running():
        await plant.clock.advance(10)
    assert await plant.times() == [10, 80, 90]


async def test_a_pause_that_ended_while_an_instance_was_away_is_not_caught_up() -> None:
    plant = Plant(every(10, catch_up="all"))
    async with plant.running() as manager:
        await plant.clock.advance(11)
        await manager.pause_schedule("job")
        await plant.clock.advance(30)
        await manager.resume_schedule("job")
    await plant.sleep_until(63)
    async with plant.running():
        await plant.clock.advance(1)
    assert await plant.times() == [10, 50, 60]


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
    with pytest.raises(ConfigurationError, match="a schedule named 'optional' already"):
        manager.schedule(every=2, name="optional")(optional)
    with pytest.raises(DuplicateTaskNameError):
        manager.schedule(every=2, name="optional")(nothing)
    with pytest.raises(ConfigurationError, match="catch_up must be one of"):
        manager.schedule(every=2, catch_up="none")(nothing)  # type: ignore[arg-type]  # this is the test
    with pytest.raises(ConfigurationError, match="there is no queue 'nope'"):
        manager.schedule(every=2, queue="nope")(nothing)
    assert [status.name for status in manager.schedules()] == ["optional"]


async def test_each_firing_begins_a_trace_of_its_own() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    plant = Plant(every(1), telemetry=Telemetry(tracer_provider=provider))
    with provider.get_tracer("test").start_as_current_span("the start-up of the application"):
        async with plant.running(), plant.running():
            await plant.clock.advance(3)
    spans = exporter.get_finished_spans()
    sent = [span for span in spans if span.name == "send job"]
    assert len(sent) == 3
    assert all(span.parent is None for span in sent)
    assert len({span.context.trace_id for span in sent if span.context}) == 3
    ran = [span for span in spans if span.name == "process job"]
    assert {span.links[0].context.span_id for span in ran} == {span.context.span_id for span in sent if span.context}


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
    """Counts how often somebody asks to be woken."""

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


async def test_names_used_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_otel.engine.schedules.firing._TIDY_EVERY", 10)
    monkeypatch.setattr("taskflow_otel.engine.schedules.firing._TIDY_BEHIND", timedelta(seconds=5))
    plant = Plant(every(1))
    async with plant.running():
        await plant.clock.advance(40)
        assert await plant.backend.forget_once("schedule:", "schedule:~", 1_000) <= 16
    assert await plant.times() == list(range(1, 41))


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
    await asyncio.wait_for(backend.waiting.wait(), 5)
    stopping = asyncio.create_task(manager.shutdown())
    await settle()
    backend.slow = False
    backend.held.set()
    await plant.clock.advance(0.5)
    await asyncio.wait_for(stopping, 10)
    async with plant.running() as second:
        await plant.clock.advance(1)
        await eventually(lambda: not second.store.list(), "the firing to be made up for")
    assert [record.status for record in await plant.records()] == [TaskStatus.SUCCESS]


def _is_firing(change: Change) -> bool:
    return getattr(change, "once", None) is not None


async def test_the_log_says_what_was_missed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.schedules")
    plant = Plant(every(60))
    async with plant.running():
        await plant.clock.advance(61)
    await plant.sleep_until(690)
    async with plant.running():
        await plant.clock.advance(1)
    assert "the schedule 'job' missed 10 firings" in caplog.text
