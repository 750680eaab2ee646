"""Prometheus metrics: counted in plain cells on the event loop, rendered on a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from taskflow_otel.bus import Exporter
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus import exposition
from taskflow_otel.exporters.prometheus.buckets import resolve_buckets
from taskflow_otel.exporters.prometheus.exposition import MetricsFormat
from taskflow_otel.exporters.prometheus.objectives import ObjectiveCounts
from taskflow_otel.exporters.prometheus.text import PageWriter
from taskflow_otel.exporters.prometheus.values import Elsewhere, Histogram, LabelValues, Snapshot, Value, merge
from taskflow_otel.exporters.signals import METRICS_BY_NAME, MetricSpec, MetricType
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import (
    OUTCOMES,
    PROCESS_DEATHS,
    REFUSALS,
    AttemptOutcome,
    Reason,
    RecoveryOutcome,
    Source,
)
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.throttled_report import ThrottledReport
from taskflow_otel.version import __version__

OTHER = "_other"
"""The label value for everything beyond the cap."""
DEFAULT_MAX_LABEL_VALUES = 200

Samples = Iterable[tuple[LabelValues, float]]
# Plain text, as labels are. Module-level names: the lookup of an enum member would be a call for each event.
SOURCES = tuple(source.value for source in Source)
ATTEMPT_OUTCOMES = tuple(outcome.value for outcome in AttemptOutcome)
_SUCCESS, _FAILED = AttemptOutcome.SUCCESS.value, AttemptOutcome.FAILED.value
_INTERRUPTED = AttemptOutcome.INTERRUPTED.value
_REFUSED = TaskStatus.REJECTED.value
FINISH_OUTCOMES = (*ATTEMPT_OUTCOMES, _REFUSED)
REFUSAL_REASONS = tuple(reason.value for reason in REFUSALS)
RECOVERY_OUTCOMES = tuple(outcome.value for outcome in RecoveryOutcome)
_WAITING, _RERUN = RecoveryOutcome.WAITING.value, RecoveryOutcome.RERUN.value
_ENDED, _POISON = RecoveryOutcome.INTERRUPTED.value, RecoveryOutcome.POISON.value

_CACHE_SECONDS = 1.0
_ATTEMPT_OUTCOME = {transition: outcome.value for transition, outcome in OUTCOMES.items()}
_ENQUEUED, _STARTED, _SUCCEEDED = Transition.ENQUEUED, Transition.STARTED, Transition.SUCCEEDED
_REJECTED, _OBJECTIVE_MISSED = Transition.REJECTED, Transition.OBJECTIVE_MISSED
_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING


class _View(NamedTuple):
    """What is shown besides the current counts of this process, or in their place."""

    peers: tuple[Snapshot, ...] = ()
    own: Snapshot | None = None
    elsewhere: Elsewhere | None = None
    exemplars_after: float = 0.0


class _Cell:
    """The counts of one task type in one queue."""

    __slots__ = (
        "attempts",
        "end_to_end",
        "enqueued",
        "finished",
        "last_success",
        "queue_wait",
        "retries",
        "run_duration",
        "running",
    )

    def __init__(self, buckets: Mapping[str, tuple[float, ...]]) -> None:
        self.enqueued = dict.fromkeys(SOURCES, 0)
        self.attempts = dict.fromkeys(ATTEMPT_OUTCOMES, 0)
        self.finished = dict.fromkeys(FINISH_OUTCOMES, 0)
        self.retries = 0
        self.running = 0
        self.last_success: datetime | None = None
        self.run_duration = Histogram(buckets[signals.RUN_DURATION.name])
        self.queue_wait = Histogram(buckets[signals.QUEUE_WAIT_TIME.name])
        self.end_to_end = Histogram(buckets[signals.END_TO_END.name])


class PrometheusExporter(Exporter):
    """Counts what happens to tasks, and renders it in the Prometheus and OpenMetrics text formats.

    `registry`: where the metrics are registered, by default its own registry. `max_label_values`: how many values a
    label may have; further ones count as `_other`. `buckets`: upper bounds in seconds by histogram name, instead of the
    defaults. `release`: that of the application. Raises `ConfigurationError` for unknown histogram names and invalid
    bounds, and if the registry holds the metrics of another manager.
    """

    name = "prometheus"

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        max_label_values: int = DEFAULT_MAX_LABEL_VALUES,
        buckets: Mapping[str, Sequence[float]] | None = None,
        release: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.registry: CollectorRegistry = CollectorRegistry() if registry is None else registry
        self._buckets = resolve_buckets(buckets or {})
        self._cap = max_label_values
        self._release = release
        self._clock = clock
        self._process = os.getpid()
        self._cells: dict[LabelValues, _Cell] = {}
        self._tasks: set[str] = set()
        self._queues: set[str] = set()
        self._error_types: set[str] = set()
        self._running: dict[str, _Cell] = {}
        self._exceptions: dict[LabelValues, int] = {}
        self._recovered = dict.fromkeys(RECOVERY_OUTCOMES, 0)
        self._refused = dict.fromkeys(REFUSAL_REASONS, 0)
        self._objectives = ObjectiveCounts()
        self._fenced = 0
        self._overflow = {"task": 0, "queue": 0, "error_type": 0}
        self._counts: dict[str, dict[LabelValues, float]] = {}
        self._observed: dict[str, dict[LabelValues, Histogram]] = {}
        self._sources: dict[str, list[Callable[[], Samples]]] = {}
        self._listeners: list[Callable[[str, float, LabelValues], None]] = []
        self._view = _View()
        self.collected_at: datetime | None = None
        """When the metrics were read for the last time, by `render` or through the registry."""
        self._source_failures = ThrottledReport()
        self._writer = PageWriter()
        self._render_lock = threading.Lock()
        self._rendered: dict[MetricsFormat, tuple[float, bytes, _View]] = {}
        try:
            self.registry.register(_Collector(self))
        except ValueError as exc:
            raise ConfigurationError(
                "this metric registry already holds taskflow metrics: give each TaskManager its own "
                "Telemetry(registry=CollectorRegistry())"
            ) from exc

    def start(self) -> None:
        """In a forked child, forget what the parent has counted: it shows that itself."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._forget()

    def _forget(self) -> None:
        self._cells = {key: _Cell(self._buckets) for key in self._cells}
        self._running.clear()
        self._exceptions.clear()
        self._recovered = dict.fromkeys(RECOVERY_OUTCOMES, 0)
        self._refused = dict.fromkeys(REFUSAL_REASONS, 0)
        self._objectives.forget()
        self._fenced = 0
        self._overflow = dict.fromkeys(self._overflow, 0)
        self._counts = {name: dict.fromkeys(children, 0.0) for name, children in self._counts.items()}
        self._observed.clear()
        self._render_lock = threading.Lock()
        self._rendered.clear()
        self._view = _View()

    def register_task(self, name: str, queue: str, *, objective: bool = False) -> None:
        """Create the children of a task type, so that they are shown as zero before anything happens."""
        key = (name, queue)
        if key not in self._cells:
            self._admit(key, count=False)
        if objective:
            self._objectives.declare(self.task_label(name))

    def task_label(self, name: str) -> str:
        """The label value of a task name: itself, or `_other` beyond the cap."""
        return name if name in self._tasks else OTHER

    def error_label(self, error_type: str) -> str:
        """The label value of an exception's class: itself, or `_other` beyond the cap."""
        return error_type if error_type in self._error_types else OTHER

    @property
    def buckets(self) -> Mapping[str, tuple[float, ...]]:
        """The upper bounds in use, by histogram name."""
        return self._buckets

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Count the transition."""
        key = (event.func_name, event.queue)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._admit(key)
        transition = event.transition
        if event.objective is not None:
            self._objectives.count(self.task_label(event.func_name), event.objective)
        # A chain, the most frequent first: this runs for every event, and a `match` compares by `==`.
        if transition is _STARTED:
            self._running[event.task_id] = cell
            cell.running += 1
            if event.queue_wait is not None:
                cell.queue_wait.observe_in(event.queue_wait, event.span, event.timestamp)
        elif transition is _ENQUEUED:
            cell.enqueued[event.source] += 1
        elif transition is _REJECTED:
            cell.finished[_REFUSED] += 1
            reason = str(event.reason)
            self._refused[reason] = self._refused.get(reason, 0) + 1
        elif transition is _OBJECTIVE_MISSED:
            pass
        elif event.previous is _RUNNING:
            self._count_attempt(cell, event)
        else:
            self._count_waiting(cell, event)

    def on_refused(self, record: TaskRecord) -> None:
        """Count the refused write; the attempt no longer counts as running here."""
        self._fenced += 1
        self._leave(record.task_id)

    def _count_attempt(self, cell: _Cell, event: LifecycleEvent) -> None:
        """Count the end of an attempt, and of the task unless it waits again."""
        self._leave(event.task_id)
        transition = event.transition
        if transition is _SUCCEEDED:
            outcome = _SUCCESS
            cell.last_success = event.end_time or event.timestamp
        else:
            outcome = _ATTEMPT_OUTCOME[transition]
        cell.attempts[outcome] += 1
        duration = event.duration
        if duration is None and event.start_time is not None and event.end_time is not None:
            duration = (event.end_time - event.start_time).total_seconds()
        if duration is not None:
            cell.run_duration.observe_in(max(duration, 0.0), event.span, event.timestamp)
        if event.status is not _PENDING:
            cell.finished[outcome] += 1
            elapsed = ((event.end_time or event.timestamp) - event.created_at).total_seconds()
            cell.end_to_end.observe_in(max(elapsed, 0.0), event.span, event.timestamp)
        if outcome == _FAILED:
            self._count_exception(event)
            if transition is Transition.RETRY_SCHEDULED:
                cell.retries += 1
            elif event.reason == Reason.POISON:
                self._recovered[_POISON] += 1
        elif outcome == _INTERRUPTED and event.reason in PROCESS_DEATHS:
            self._recovered[_RERUN if event.status is _PENDING else _ENDED] += 1

    def _count_waiting(self, cell: _Cell, event: LifecycleEvent) -> None:
        """Count the end or the takeover of a task that was not running."""
        if event.transition is Transition.RECOVERED:
            self._recovered[_WAITING] += 1
        else:
            cell.finished[_ATTEMPT_OUTCOME[event.transition]] += 1

    def _leave(self, task_id: str) -> None:
        """An attempt no longer runs; one of another process was never counted as running here."""
        cell = self._running.pop(task_id, None)
        if cell is not None:
            cell.running -= 1

    def _count_exception(self, event: LifecycleEvent) -> None:
        if event.error_type is None:
            return
        task = self.task_label(event.func_name)
        error_type = self._capped("error_type", event.error_type, self._error_types)
        key = (task, error_type)
        if key not in self._exceptions and len(self._exceptions) >= 5 * self._cap:
            # Both labels are bounded, but their combinations could still be too many.
            self._overflow["error_type"] += 1
            key = (task, OTHER)
        self._exceptions[key] = self._exceptions.get(key, 0) + 1

    def _capped(self, label: str, value: str, seen: set[str], *, count: bool = True) -> str:
        if value in seen:
            return value
        if len(seen) >= self._cap:
            if count:
                self._overflow[label] += 1
            return OTHER
        seen.add(value)
        return value

    def _admit(self, key: LabelValues, *, count: bool = True) -> _Cell:
        task = self._capped("task", key[0], self._tasks, count=count)
        queue = self._capped("queue", key[1], self._queues, count=count)
        if (task, queue) not in self._cells and len(self._cells) >= 5 * self._cap:
            task = OTHER
            if count:
                self._overflow["task"] += 1
        cell = self._cells.get((task, queue))
        if cell is None:
            cell = self._cells[task, queue] = _Cell(self._buckets)
        return cell

    def add_source(self, metric: str, read: Callable[[], Samples]) -> None:
        """Read a gauge or counter at each scrape.

        `read()` yields label values (in the order of the table) and a number, and is called on the thread that renders.
        Raises `ConfigurationError` for an unknown metric.
        """
        _known(metric, MetricType.GAUGE, MetricType.COUNTER)
        self._sources.setdefault(metric, []).append(read)

    def count(self, metric: str, *labels: str, by: float = 1) -> None:
        """Add to a counter that lifecycle events do not change. Call it on the event loop's thread."""
        children = self._counts.get(metric)
        if children is None:
            children = self._counts[_known(metric, MetricType.COUNTER).name] = {}
        if labels not in children:
            _check_labels(METRICS_BY_NAME[metric], labels)
        children[labels] = children.get(labels, 0.0) + by

    def observe(self, metric: str, value: float, *labels: str) -> None:
        """Observe seconds in a histogram that lifecycle events do not change. Call it on the event loop's thread."""
        children = self._observed.get(metric)
        if children is None:
            children = self._observed[_known(metric, MetricType.HISTOGRAM).name] = {}
        histogram = children.get(labels)
        if histogram is None:
            _check_labels(METRICS_BY_NAME[metric], labels)
            histogram = children[labels] = Histogram(self._buckets[metric])
        histogram.observe(value)
        for listener in self._listeners:
            listener(metric, value, labels)

    def listen(self, listener: Callable[[str, float, LabelValues], None]) -> None:
        """Call a function with each value that `observe` gets: the metric, the seconds, and the label values."""
        self._listeners.append(listener)

    def observe_backend(self, backend: str, operation: str, outcome: str, seconds: float) -> None:
        """Observe one backend operation; `outcome` is `ok` or `error`."""
        self.observe(signals.BACKEND_OPERATION.name, seconds, backend, operation, outcome)

    @property
    def max_label_values(self) -> int:
        """How many values a label may have."""
        return self._cap

    def set_peers(
        self,
        snapshots: Sequence[Snapshot],
        own: Snapshot | None = None,
        *,
        elsewhere: Elsewhere | None = None,
        exemplars_after: float = 0.0,
    ) -> None:
        """Set the counts of the other processes behind the same port, which are added to every answer from now on.

        `own`: the counts of this process to show with them, in place of its current ones. The other processes show only
        its stored counts, and a counter must not decrease between answers of two processes. `exemplars_after`: Unix
        time of the last answer of another process; exemplars that are not newer are left out. `elsewhere` is shown
        beside these counts, under its label.
        """
        self._view = _View(tuple(snapshots), own, elsewhere, exemplars_after)

    def snapshot(self) -> Snapshot:
        """All counts of this process, including the sources. Callable from any thread."""
        found: Snapshot = {
            signals.BUILD_INFO.name: {(__version__, self._release): 1.0},
            signals.INSTANCES.name: {(): 1.0},
            signals.TASK_EXCEPTIONS.name: dict[LabelValues, Value](self._exceptions),
            signals.TASKS_RECOVERED.name: {(reason,): n for reason, n in self._recovered.items()},
            signals.TASKS_REFUSED.name: {(reason,): n for reason, n in list(self._refused.items())},
            signals.FENCED_WRITES.name: {(): float(self._fenced)},
            signals.LABEL_OVERFLOW.name: {(label,): n for label, n in self._overflow.items()},
        }
        self._objectives.read(found)
        self._read_cells(found)
        for name, counts in self._counts.items():
            found[name] = dict[LabelValues, Value](counts)
        for name, histograms in self._observed.items():
            found[name] = {labels: histogram.copy() for labels, histogram in list(histograms.items())}
        for name, readers in self._sources.items():
            target = found.setdefault(name, {})
            for read in readers:
                try:
                    target.update(_checked(METRICS_BY_NAME[name], read()))
                except Exception as exc:
                    self._source_failures.add(name, "could not be read for a scrape", exc)
        return found

    def _read_cells(self, found: Snapshot) -> None:
        for spec in (
            signals.TASKS_ENQUEUED,
            signals.TASK_ATTEMPTS,
            signals.TASKS_FINISHED,
            signals.TASK_RETRIES,
            signals.TASKS_RUNNING,
            signals.LAST_SUCCESS,
            signals.RUN_DURATION,
            signals.QUEUE_WAIT_TIME,
            signals.END_TO_END,
        ):
            found[spec.name] = {}
        last_success = found[signals.LAST_SUCCESS.name]
        for key, cell in list(self._cells.items()):
            for spec, numbers in (
                (signals.TASKS_ENQUEUED, cell.enqueued),
                (signals.TASK_ATTEMPTS, cell.attempts),
                (signals.TASKS_FINISHED, cell.finished),
            ):
                found[spec.name].update(((*key, label), number) for label, number in list(numbers.items()))
            found[signals.TASK_RETRIES.name][key] = cell.retries
            found[signals.TASKS_RUNNING.name][key] = cell.running
            found[signals.RUN_DURATION.name][key] = cell.run_duration.copy()
            found[signals.QUEUE_WAIT_TIME.name][key] = cell.queue_wait.copy()
            found[signals.END_TO_END.name][key] = cell.end_to_end.copy()
            latest = last_success.get(key[:1], 0.0)
            if cell.last_success is not None and not isinstance(latest, Histogram):
                last_success[key[:1]] = max(latest, cell.last_success.timestamp())

    def collect(self) -> Iterator[Metric]:
        """The metric families, including the counts of the peers."""
        if self._writer.writing:
            return iter(())
        view = self._view
        return exposition.families(self._shown(view), elsewhere=view.elsewhere, exemplars_after=view.exemplars_after)

    def _shown(self, view: _View) -> Snapshot:
        self.collected_at = self._clock.now()
        own = self.snapshot() if view.own is None else view.own
        return merge([own, *view.peers]) if view.peers else own

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """Return body and content type for an `Accept` header: OpenMetrics or Prometheus text.

        Renders at most once a second, unless the peers have new counts. It takes milliseconds: call it on a thread, not
        on the event loop.
        """
        form = exposition.negotiate(accept)
        if form is MetricsFormat.JSON:
            form = MetricsFormat.TEXT
        with self._render_lock:
            now = self._clock.monotonic()
            cached = self._rendered.get(form)
            if cached is None or now - cached[0] >= _CACHE_SECONDS or cached[2] is not self._view:
                view = self._view
                body = self._writer.page(
                    self.registry,
                    form,
                    self._shown(view),
                    elsewhere=view.elsewhere,
                    exemplars_after=view.exemplars_after,
                )
                cached = self._rendered[form] = (now, body, view)
        return cached[1], exposition.CONTENT_TYPES[form]


class _Collector:
    """The collector in the registry, which asks for the families at each scrape."""

    def __init__(self, exporter: PrometheusExporter) -> None:
        self._exporter = exporter

    def collect(self) -> Iterator[Metric]:
        return self._exporter.collect()

    def describe(self) -> Iterator[Metric]:
        return exposition.describe()


def _known(metric: str, *types: MetricType) -> MetricSpec:
    spec = METRICS_BY_NAME.get(metric)
    if spec is None or spec.type not in types:
        kinds = " or ".join(types)
        raise ConfigurationError(f"there is no {kinds} {metric!r}: add it to taskflow_otel.exporters.signals")
    return spec


def _check_labels(spec: MetricSpec, labels: LabelValues) -> None:
    if len(labels) != len(spec.labels):
        raise ConfigurationError(f"{spec.name} has the labels {spec.labels}, not values {labels!r}")


def _checked(spec: MetricSpec, samples: Samples) -> dict[LabelValues, float]:
    checked: dict[LabelValues, float] = {}
    for labels, value in samples:
        _check_labels(spec, labels)
        checked[labels] = float(value)
    return checked
