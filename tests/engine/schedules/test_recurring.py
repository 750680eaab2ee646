"""Recurring schedules on a clock that the test turns."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel import (
    TaskManager,
    TaskStatus,
    Telemetry,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.testing.clock import FakeClock
from tests.engine.schedules.plant import START, Plant, every, nothing
from tests.managers import HeldBackend, inserts
from tests.waiting import eventually


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


async def test_several_instances_whose_clock_is_set_back_continue_with_one_firing_each_time() -> None:
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
        await plant.clock.advance(700)
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


@pytest.mark.parametrize("catch_up", ["all", "latest"])
async def test_a_changed_rule_makes_up_for_no_time_before_it_existed(catch_up: str) -> None:
    backend, clock = MemoryBackend(durable=True), FakeClock(START)
    lives = [cron("0 * * * *", catch_up=catch_up), cron("* * * * *", catch_up=catch_up)]
    old, new = (Plant(declare, snapshot_backend=backend) for declare in lives)
    old.clock = new.clock = clock
    await old.sleep_until(3_540)
    async with old.running():
        await clock.advance(61)
    await new.sleep_until(3 * 3_600 + 30)
    async with new.running():
        await clock.advance(31)
    assert await new.times() == [3_600, 3 * 3_600 + 60]
    await new.sleep_until(3 * 3_600 + 240)
    async with new.running():
        await clock.advance(1)
    made_up = [3 * 3_600 + 120, 3 * 3_600 + 180, 3 * 3_600 + 240] if catch_up == "all" else [3 * 3_600 + 240]
    assert await new.times() == [3_600, 3 * 3_600 + 60, *made_up]


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


async def test_names_used_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_otel.engine.schedules.firing._TIDY_EVERY", 10)
    monkeypatch.setattr("taskflow_otel.engine.schedules.firing._TIDY_BEHIND", timedelta(seconds=5))
    plant = Plant(every(1))
    async with plant.running():
        await plant.clock.advance(40)
        assert await plant.backend.forget_once("schedule:", "schedule:~", 1_000) <= 16
    assert await plant.times() == list(range(1, 41))


async def test_the_log_says_what_was_missed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.schedules")
    plant = Plant(every(60))
    async with plant.running():
        await plant.clock.advance(61)
    await plant.sleep_until(690)
    async with plant.running():
        await plant.clock.advance(1)
    assert "the schedule 'job' missed 10 firings" in caplog.text
