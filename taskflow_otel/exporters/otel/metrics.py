"""The metrics of the Prometheus page as OpenTelemetry metrics, if there is a meter provider."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import assert_never

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from taskflow_otel.bus import Exporter
from taskflow_otel.exporters import keys, messaging, signals
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.providers import NEVER, ProviderSlot
from taskflow_otel.exporters.otel.units import otel_unit
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Histogram as HistogramState
from taskflow_otel.exporters.prometheus.values import LabelValues, Snapshot
from taskflow_otel.exporters.specs import MetricSpec, MetricType
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.status import Transition
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock, TimerHandle
from taskflow_otel.version import __version__

_FIRST_LOOK, _LAST_LOOK = 0.5, 30.0
"""Seconds until a look for a provider, doubled after each."""
_FAILURES = frozenset({Transition.FAILED, Transition.RETRY_SCHEDULED})


class OtelMetricsExporter(Exporter):
    """Reports the values of `source` to a meter provider; must come after `source` on the bus.

    Counters and gauges are read from `source` when the SDK collects, so that both outputs agree. Histograms cannot be
    read that way: each value is recorded. `meter_provider=None` means the global one, which may be set later. Until
    then each event looks for it, at most every 50 ms, and so do timers in the first minute: an application without
    tasks has its zeroes too. Histograms have what comes after that moment.
    """

    name = "otel_metrics"

    def __init__(
        self,
        source: PrometheusExporter,
        meter_provider: MeterProvider | None = None,
        *,
        contexts: spans.SpanContexts | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._contexts = contexts or spans.SpanContexts()
        self._clock = clock
        self._source = source
        self._slot = ProviderSlot(meter_provider, metrics.get_meter_provider)
        self._meter: Meter | None = None
        self._histograms: dict[str, Histogram] = {}
        self._reader = _SharedReader(source.snapshot)
        self._connecting = threading.Lock()
        self._timer: TimerHandle | None = None
        source.listen(self._observed)

    def start(self) -> None:
        """Create the instruments, or look for a provider until there is one."""
        self._look(_FIRST_LOOK)

    def close(self) -> None:
        """Look no further."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, delay: float) -> None:
        self._timer = None
        now = self._clock.now()
        # An injected provider without effect is not looked at again.
        if not self._connected(now) and delay <= _LAST_LOOK and self._slot.look_again < NEVER:
            self._timer = self._clock.call_later(delay, functools.partial(self._look, 2 * delay))

    def _connected(self, now: datetime) -> bool:
        """Whether there are instruments, made now if a provider was set since."""
        if self._meter is None and (provider := self._slot.look(now)) is not None:
            with self._connecting:
                if self._meter is None:
                    self._create(provider)
        return self._meter is not None

    def _create(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(signals.SCOPE, __version__, schema_url=signals.SCHEMA_URL)
        for spec in (messaging.SENT_MESSAGES, messaging.CONSUMED_MESSAGES):
            meter.create_observable_counter(spec.name, [self._messages(spec)], spec.unit, spec.help)
        for spec in signals.METRICS:
            unit = otel_unit(spec)
            match spec.type:
                case MetricType.COUNTER:
                    meter.create_observable_counter(signals.otel_name(spec), [self._reading(spec)], unit, spec.help)
                case MetricType.GAUGE | MetricType.INFO:
                    meter.create_observable_gauge(signals.otel_name(spec), [self._reading(spec)], unit, spec.help)
                case MetricType.HISTOGRAM:
                    self._histograms[spec.name] = meter.create_histogram(
                        signals.otel_name(spec),
                        unit,
                        spec.help,
                        explicit_bucket_boundaries_advisory=self._source.buckets[spec.name],
                    )
                case _:
                    assert_never(spec.type)
        spec = messaging.PROCESS_DURATION
        self._histograms[spec.name] = meter.create_histogram(
            spec.name,
            spec.unit,
            spec.help,
            explicit_bucket_boundaries_advisory=self._source.buckets[signals.RUN_DURATION.name],
        )
        # Last: from now on other threads record in them.
        self._meter = meter

    def idle_until(self, now: datetime) -> datetime | None:
        """The time of the next look for a provider; `None` once there is one."""
        return None if self._connected(now) else self._slot.look_again

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Record the durations of the transition."""
        if self._meter is None:
            return
        if event.transition is Transition.STARTED:
            if event.queue_wait is not None:
                self._record(signals.QUEUE_WAIT_TIME, event.queue_wait, event)
        elif event.ends_attempt:
            ended = event.end_time or event.timestamp
            duration = event.duration
            if duration is None and event.start_time is not None:
                duration = (ended - event.start_time).total_seconds()
            if duration is not None:
                self._record(signals.RUN_DURATION, duration, event)
                self._record_process(duration, event)
            if event.status.finished:
                self._record(signals.END_TO_END, (ended - event.created_at).total_seconds(), event)

    def flush(self, timeout: float) -> None:
        """Ask the SDK to export what it has buffered."""
        self._slot.force_flush(timeout)

    def _observed(self, metric: str, seconds: float, labels: LabelValues) -> None:
        """Record a value that no event carries."""
        if self._connected(self._clock.now()):
            attributes = dict(zip(signals.METRICS_BY_NAME[metric].labels, labels, strict=True))
            self._histograms[metric].record(max(seconds, 0.0), attributes)

    def _record(self, spec: MetricSpec, seconds: float, event: LifecycleEvent) -> None:
        labels = {"task": self._source.task_label(event.func_name), "queue": event.queue}
        attributes = {name: labels[name] for name in spec.labels}
        self._histograms[spec.name].record(max(seconds, 0.0), attributes, self._contexts.of(event.span))

    def _record_process(self, seconds: float, event: LifecycleEvent) -> None:
        attributes = _messaging("process", self._source.task_label(event.func_name))
        if event.transition in _FAILURES and event.error_type is not None:
            attributes[keys.ERROR_TYPE] = self._source.error_label(event.error_type)
        histogram = self._histograms[messaging.PROCESS_DURATION.name]
        histogram.record(max(seconds, 0.0), attributes, self._contexts.of(event.span))

    def _reading(self, spec: MetricSpec) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            for labels, value in self._reader.read(spec.name).get(spec.name, {}).items():
                if not isinstance(value, HistogramState):
                    yield Observation(value, dict(zip(spec.labels, labels, strict=True)))

        return read

    def _messages(self, spec: MetricSpec) -> Callable[[CallbackOptions], Iterable[Observation]]:
        sent = spec is messaging.SENT_MESSAGES
        counted, operation = (signals.TASKS_ENQUEUED, "send") if sent else (signals.QUEUE_WAIT_TIME, "process")

        def read(_: CallbackOptions) -> Iterable[Observation]:
            totals: dict[str, float] = {}
            for labels, value in self._reader.read(spec.name)[counted.name].items():
                number = sum(value.counts) if isinstance(value, HistogramState) else value
                totals[labels[0]] = totals.get(labels[0], 0) + number
            for task, total in totals.items():
                yield Observation(total, _messaging(operation, task))

        return read


class _SharedReader:
    """One snapshot for all instruments of one collection; the second read of an instrument starts the next one."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._served: set[str] = set()
        self._snapshot: Snapshot | None = None

    def read(self, instrument: str) -> Snapshot:
        """The snapshot of this collection."""
        with self._lock:
            if self._snapshot is None or instrument in self._served:
                self._snapshot = self._take()
                self._served.clear()
            self._served.add(instrument)
            return self._snapshot


def _messaging(operation: str, task: str) -> dict[str, str]:
    return {
        keys.MESSAGING_SYSTEM: keys.SYSTEM,
        keys.MESSAGING_OPERATION_NAME: operation,
        keys.MESSAGING_DESTINATION_NAME: task,
    }
