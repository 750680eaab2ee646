"""What the metrics read from the engine at each scrape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskflow_otel import LifecycleEvent, QueueConfig, TaskManager, TaskObserver
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Histogram
from taskflow_otel.metrics.sources import ScheduleMetrics
from tests.managers import Gate, metric, started
from tests.waiting import eventually


async def nothing() -> None:
    """A job."""


async def test_queues_show_what_is_ready_and_what_is_delayed() -> None:
    manager = TaskManager(queues={"mail": QueueConfig(concurrency=1)})
    async with started(manager):
        await manager.pause_queue("mail")
        for delay in (0, 0, 60):
            await manager.enqueue(nothing, queue="mail", delay=delay)
        depth = signals.QUEUE_DEPTH.name
        assert (metric(manager, depth, "mail", "ready"), metric(manager, depth, "mail", "delayed")) == (2, 1)
        assert metric(manager, depth, "default", "ready") == 0
        assert metric(manager, signals.QUEUE_OLDEST_READY_AGE.name, "mail") > 0


async def test_a_queue_shows_whether_it_is_paused() -> None:
    async with started(TaskManager(queues={"mail": QueueConfig()})) as manager:
        paused = signals.QUEUE_PAUSED.name
        assert metric(manager, paused, "mail") == 0
        await manager.pause_queue("mail")
        assert (metric(manager, paused, "mail"), metric(manager, paused, "default")) == (1, 0)
        await manager.resume_queue("mail")
        assert metric(manager, paused, "mail") == 0


async def test_the_errors_of_each_exporter_and_observer_are_shown_from_zero_on() -> None:
    class Broken(TaskObserver):
        """Takes nothing."""

        async def on_lifecycle(self, event: LifecycleEvent) -> None:
            raise ValueError("broken")

    async with started(TaskManager(loggers=[Broken()])) as manager:
        errors = signals.EXPORTER_ERRORS.name
        before = manager.metrics.snapshot()[errors]
        assert {labels[0] for labels in before} >= {"Broken", "tracing", "logs", "prometheus", "flush"}
        assert set(before.values()) == {0}
        await manager.wait(await manager.enqueue(nothing), 5)
        await eventually(lambda: metric(manager, errors, "Broken") > 0, "the first error")
        assert manager.metrics.snapshot()[errors].keys() == before.keys()


async def test_slots_are_used_or_free_and_without_a_limit_only_used() -> None:
    manager, gate = TaskManager(max_sync_threads=3), Gate()
    async with started(manager):
        await manager.enqueue(gate.run)
        await gate.entered.wait()
        slots = manager.metrics.snapshot()[signals.EXECUTOR_SLOTS.name]
        assert slots["async", "used"] == 1
        assert ("async", "free") not in slots
        assert (slots["thread", "used"], slots["thread", "free"]) == (0, 3)
        gate.opened.set()


def test_a_declared_task_is_shown_before_it_has_run() -> None:
    manager = TaskManager()
    manager.task()(nothing)
    assert any("nothing" in labels for labels in manager.metrics.snapshot()[signals.TASKS_ENQUEUED.name])


async def test_what_observers_and_history_lose_is_shown_by_name() -> None:
    class Mine(TaskObserver):
        """Takes everything."""

    async with started(TaskManager(loggers=[Mine()])) as manager:
        lost = manager.metrics.snapshot()[signals.EVENTS_DROPPED.name]
        assert {labels[0] for labels in lost} >= {"Mine", "history"}


def of_schedules(act: Callable[[ScheduleMetrics], object]) -> dict[str, Any]:
    """What the exporter shows of the schedule `nightly` after this."""
    exporter = PrometheusExporter()
    act(ScheduleMetrics(exporter))
    return {
        name: sum(value.counts) if isinstance(value, Histogram) else value
        for name, children in exporter.snapshot().items()
        for labels, value in children.items()
        if labels == ("nightly",)
    }


def test_a_schedule_shows_zeros_before_anything_has_happened() -> None:
    shown = of_schedules(lambda meter: meter.declared("nightly"))
    assert (shown[signals.SCHEDULE_MISSED.name], shown[signals.SCHEDULE_ERRORS.name]) == (0, 0)


def test_firings_failures_and_misses_of_a_schedule_are_counted() -> None:
    def act(meter: ScheduleMetrics) -> None:
        meter.fired("nightly", 0.2)
        meter.missed("nightly", 3)
        meter.failed("nightly")

    shown = of_schedules(act)
    assert shown[signals.SCHEDULE_MISSED.name] == 3
    assert shown[signals.SCHEDULE_ERRORS.name] == 1
    assert shown[signals.SCHEDULE_LATENESS.name] == 1
