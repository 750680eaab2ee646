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
from taskflow_otel.exporters.prometheus.task_counts import TaskCounts
from taskflow_otel.exporters.prometheus.text import PageWriter
from taskflow_otel.exporters.prometheus.values import Elsewhere, Histogram, LabelValues, Snapshot, Value, merge
from taskflow_otel.exporters.signals import METRICS_BY_NAME
from taskflow_otel.exporters.specs import MetricSpec, MetricType
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import InstanceKind
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.throttled_report import ThrottledReport
from taskflow_otel.version import __version__

DEFAULT_MAX_LABEL_VALUES = 200

Samples = Iterable[tuple[LabelValues, float]]
_CACHE_SECONDS = 1.0


class _View(NamedTuple):
    """What is shown besides the current counts of this process, or in their place."""

    peers: tuple[Snapshot, ...] = ()
    own: Snapshot | None = None
    elsewhere: Elsewhere | None = None
    exemplars_after: float = 0.0


class PrometheusExporter(Exporter):
    """Counts what happens to tasks, and renders it in the Prometheus and OpenMetrics text formats.

    `registry`: where the metrics are registered, by default its own registry. `max_label_values`: how many values a
    label may have; further ones count as `_other`. `buckets`: upper bounds in seconds by histogram name, instead of the
    defaults. `release`: that of the application. `kind`: what the process was started as. Raises `ConfigurationError`
    for unknown histogram names and invalid bounds, and if the registry holds the metrics of another manager.
    """

    name = "prometheus"

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        max_label_values: int = DEFAULT_MAX_LABEL_VALUES,
        buckets: Mapping[str, Sequence[float]] | None = None,
        release: str = "",
        kind: InstanceKind = InstanceKind.WEB,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.registry: CollectorRegistry = CollectorRegistry() if registry is None else registry
        self._buckets = resolve_buckets(buckets or {})
        self._cap = max_label_values
        self._release = release
        self.kind: InstanceKind = kind
        """What this process was started as."""
        self._clock = clock
        self._process = os.getpid()
        self._tasks = TaskCounts(self._buckets, max_label_values)
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
        self._tasks.forget()
        self._counts = {name: dict.fromkeys(children, 0.0) for name, children in self._counts.items()}
        self._observed.clear()
        self._render_lock = threading.Lock()
        self._rendered.clear()
        self._view = _View()

    def register_task(self, name: str, queue: str, *, objective: bool = False) -> None:
        """Create the children of a task type, so that they are shown as zero before anything happens."""
        self._tasks.register(name, queue, objective=objective)

    def task_label(self, name: str) -> str:
        """The label value of a task name: itself, or `_other` beyond the cap."""
        return self._tasks.task_label(name)

    def error_label(self, error_type: str) -> str:
        """The label value of an exception's class: itself, or `_other` beyond the cap."""
        return self._tasks.error_label(error_type)

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Count the transition."""
        self._tasks.take(event)

    def on_refused(self, record: TaskRecord, deleted: bool) -> None:
        """Count the refused write; the attempt no longer counts as running here."""
        self._tasks.refuse(record.task_id)

    @property
    def buckets(self) -> Mapping[str, tuple[float, ...]]:
        """The upper bounds in use, by histogram name."""
        return self._buckets

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
            signals.INSTANCES.name: {(self.kind.value,): 1.0},
        }
        self._tasks.read(found)
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
