"""What the metrics read from the engine at each scrape, and the metrics of schedules."""

from __future__ import annotations

from collections.abc import Iterator

from taskflow_otel.backends.measured import MeasuredBackend
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.blocks import NO_TASK
from taskflow_otel.engine.engine import Engine
from taskflow_otel.engine.fleet.pool_watch import PoolLoad
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.task_counts import OTHER
from taskflow_otel.model.objective import SLO
from taskflow_otel.model.record import DEFAULT_QUEUE
from taskflow_otel.model.vocabulary import QueueState, SlotState

Samples = Iterator[tuple[tuple[str, ...], float]]


def count_blocked(metrics: PrometheusExporter, task: str, seconds: float) -> None:
    """Count a time in which the event loop was blocked, by a task of this name or by something else (`NO_TASK`)."""
    metrics.count(signals.LOOP_BLOCKED.name, task if task == NO_TASK else metrics.task_label(task), by=seconds)


def connect_metrics(
    metrics: PrometheusExporter, engine: Engine, bus: ObserverBus, registry: TaskRegistry, backend: MeasuredBackend
) -> None:
    """Connect each metric to the part that knows its value."""

    def pre_initialise(definition: TaskDefinition) -> None:
        objective = definition.config.slo is not None
        metrics.register_task(definition.name, definition.config.queue or DEFAULT_QUEUE, objective=objective)
        count_blocked(metrics, definition.name, 0.0)

    registry.on_added(pre_initialise)
    count_blocked(metrics, NO_TASK, 0.0)

    def depths() -> Samples:
        for stats in engine.queues.stats().values():
            yield (stats.name, QueueState.READY.value), stats.ready
            yield (stats.name, QueueState.DELAYED.value), stats.delayed

    def ages() -> Samples:
        for stats in engine.queues.stats().values():
            yield (stats.name,), stats.oldest_ready_age

    def paused() -> Samples:
        for stats in engine.queues.stats().values():
            yield (stats.name,), stats.paused

    def slots() -> Samples:
        for name, (used, capacity) in engine.vitals.slots().items():
            yield (name, SlotState.USED.value), used
            if capacity is not None:
                yield (name, SlotState.FREE.value), max(0, capacity - used)

    def dropped() -> Samples:
        for name, count in bus.dropped.items():
            yield (name,), count
        yield ("history",), engine.vitals.history_dropped
        yield ("audit",), engine.audit.lost

    def errors() -> Samples:
        # From zero on: the first error of a part must be an increase.
        for name, count in (dict.fromkeys(bus.parts, 0) | bus.errors).items():
            yield (name,), count

    def stuck() -> Samples:
        yield (), sum(engine.vitals.stuck().values())

    def up() -> Samples:
        yield (backend.name,), not (backend.failing or engine.vitals.backend_failing)

    def objectives() -> Samples:
        for task, slo in slos():
            yield (task,), slo.success

    def windows() -> Samples:
        for task, slo in slos():
            yield (task,), slo.window_seconds

    def limits() -> Samples:
        for task, slo in slos():
            if slo.within_seconds is not None:
                yield (task,), slo.within_seconds

    def overdue() -> Samples:
        late = engine.objectives.overdue()
        for task, _ in slos():
            yield (task,), late.get(task, 0)

    def slos() -> Iterator[tuple[str, SLO]]:
        # Beyond the cap of names, there is no gauge: those of several types would be one.
        return ((name, slo) for name, slo in engine.objectives.declared().items() if metrics.task_label(name) != OTHER)

    def last_fire() -> Samples:
        for status in engine.schedules.statuses():
            if status.last_run is not None:
                yield (status.name,), status.last_run.timestamp()

    def next_fire() -> Samples:
        for status in engine.schedules.statuses():
            if status.next_run is not None:
                yield (status.name,), status.next_run.timestamp()

    def pool() -> Iterator[PoolLoad]:
        return iter(()) if engine.pool is None else engine.pool.loads()

    def doorbells() -> Samples:
        for (queue, result), number in engine.doorbells.counts.items() if engine.doorbells is not None else ():
            yield (queue, result.value), number

    metrics.add_source(signals.POOL_DEPTH.name, lambda: (((one.queue,), one.tasks) for one in pool()))
    metrics.add_source(signals.POOL_OLDEST_AGE.name, lambda: (((one.queue,), one.oldest_age) for one in pool()))
    metrics.add_source(
        signals.POOL_CLAIMERS.name,
        lambda: (((one.queue,), one.claimers) for one in pool() if one.claimers is not None),
    )
    metrics.add_source(signals.POOL_CLAIMS.name, lambda: (((one.queue,), one.claims) for one in pool()))
    metrics.add_source(signals.DOORBELLS.name, doorbells)
    metrics.add_source(signals.QUEUE_DEPTH.name, depths)
    metrics.add_source(signals.QUEUE_OLDEST_READY_AGE.name, ages)
    metrics.add_source(signals.QUEUE_PAUSED.name, paused)
    metrics.add_source(signals.EXECUTOR_SLOTS.name, slots)
    metrics.add_source(signals.EVENTS_DROPPED.name, dropped)
    metrics.add_source(signals.EXPORTER_ERRORS.name, errors)
    metrics.add_source(signals.TASKS_STUCK.name, stuck)
    metrics.add_source(signals.BACKEND_UP.name, up)
    metrics.add_source(signals.SLO_OBJECTIVE.name, objectives)
    metrics.add_source(signals.SLO_WINDOW.name, windows)
    metrics.add_source(signals.SLO_WITHIN.name, limits)
    metrics.add_source(signals.SLO_OVERDUE.name, overdue)
    metrics.add_source(signals.SCHEDULE_LAST_FIRE.name, last_fire)
    metrics.add_source(signals.SCHEDULE_NEXT_FIRE.name, next_fire)


class ScheduleMetrics:
    """Counts what schedules do: the engine's `ScheduleMeter`, as Prometheus metrics."""

    def __init__(self, metrics: PrometheusExporter) -> None:
        self._metrics = metrics

    def declared(self, schedule: str) -> None:
        """Start both counters at zero, so that they are shown before anything happens."""
        self.missed(schedule, 0)
        self._metrics.count(signals.SCHEDULE_ERRORS.name, schedule, by=0)

    def fired(self, schedule: str, lateness: float) -> None:
        """A firing was enqueued `lateness` seconds after it was due."""
        self._metrics.observe(signals.SCHEDULE_LATENESS.name, lateness, schedule)

    def missed(self, schedule: str, number: int) -> None:
        """Firings did not run."""
        self._metrics.count(signals.SCHEDULE_MISSED.name, schedule, by=number)

    def failed(self, schedule: str) -> None:
        """A firing failed, and will be tried again."""
        self._metrics.count(signals.SCHEDULE_ERRORS.name, schedule)
