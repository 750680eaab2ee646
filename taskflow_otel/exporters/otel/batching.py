"""The SDK's batch processors with a `BoundedExport`. Imports the SDK, so only `configure_telemetry` imports it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from taskflow_otel.compat.opentelemetry import metric_preferences, shut_down
from taskflow_otel.exporters.otel.bounded_export import BoundedExport

_FLUSH_SECONDS = 30.0


class _SdkExporter(Protocol):
    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = ...) -> bool: ...


E = TypeVar("E", bound=_SdkExporter)


class _Guarded(Generic[E]):
    """An exporter that is called through a `BoundedExport`."""

    def __init__(self, exporter: E, bounded: BoundedExport) -> None:
        self._exporter = exporter
        self._bounded = bounded
        self._shut_down = False

    def shutdown(self) -> None:
        if not self._shut_down:
            self._shut_down = True
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def close(self) -> float:
        """Refuse further items; return for how many seconds a shutdown may wait.

        A collector that fails already gets no attempt, another one gets one: no retry starts. It takes no thread,
        because an interpreter that ends (from Python 3.12 on) starts none.
        """
        return self._bounded.close(self.shutdown)

    def flush(self, flush: Callable[[], bool], timeout_millis: float | None) -> bool:
        """Flush within the timeout, which the SDK's own processors ignore, or until an attempt has failed."""
        timeout = _FLUSH_SECONDS if timeout_millis is None else timeout_millis / 1000
        if not self._bounded.retry(timeout):
            return False
        answers: list[bool] = []
        ended = threading.Event()

        def run() -> None:
            answers.append(flush())
            ended.set()
            self._bounded.flushed()

        threading.Thread(target=run, name="taskflow flush", daemon=True).start()
        return self._bounded.wait(ended, timeout) and answers == [True]


class _SpanGuard(_Guarded[SpanExporter], SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        taken = self._bounded.send(spans, lambda batch: self._exporter.export(batch) is SpanExportResult.SUCCESS)
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE


class _LogGuard(_Guarded[LogRecordExporter], LogRecordExporter):
    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        taken = self._bounded.send(batch, lambda batch: self._exporter.export(batch) is LogRecordExportResult.SUCCESS)
        return LogRecordExportResult.SUCCESS if taken else LogRecordExportResult.FAILURE


class BoundedSpanProcessor(BatchSpanProcessor):
    """Exports spans in batches. A span that finds the queue full is dropped and counted.

    The SDK's own processor makes a log record for each span that it drops, which costs more than the span.
    """

    def __init__(self, exporter: SpanExporter, bounded: BoundedExport) -> None:
        self._bounded = bounded
        self._guard = _SpanGuard(exporter, bounded)
        super().__init__(self._guard, max_queue_size=bounded.size)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span, or drop and count it."""
        context = span.context
        if context is not None and context.trace_flags.sampled and self._bounded.enter():
            super().on_end(span)

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export what is queued; `False` if that took longer or the collector did not take it."""
        return self._guard.flush(super().force_flush, timeout_millis)

    def shutdown(self) -> None:
        """Export what is queued unless the collector is in trouble, and stop."""
        shut_down(self, self._guard.close())


class BoundedLogProcessor(BatchLogRecordProcessor):
    """Exports log records in batches. A record that finds the queue full is dropped and counted."""

    def __init__(self, exporter: LogRecordExporter, bounded: BoundedExport) -> None:
        self._bounded = bounded
        self._guard = _LogGuard(exporter, bounded)
        super().__init__(self._guard, max_queue_size=bounded.size)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a record, or drop and count it."""
        if self._bounded.enter():
            super().on_emit(log_record)

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export what is queued; `False` if that took longer or the collector did not take it."""
        return self._guard.flush(super().force_flush, timeout_millis)

    def shutdown(self) -> None:
        """Export what is queued unless the collector is in trouble, and stop."""
        shut_down(self, self._guard.close())


class _MetricGuard(MetricExporter):
    """Exports metrics through a `BoundedExport`. A collection is one item: the next one has the same counts."""

    def __init__(self, exporter: MetricExporter, bounded: BoundedExport) -> None:
        super().__init__(*metric_preferences(exporter))
        self._guarded = _Guarded(exporter, bounded)
        self._exporter = exporter
        self._bounded = bounded

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> MetricExportResult:
        # The reader exports one collection at a time, and the last one after the end was announced: all have room.
        self._bounded.enter()
        taken = self._bounded.send(
            [metrics_data],
            lambda batch: self._exporter.export(batch[0], timeout_millis) is MetricExportResult.SUCCESS,
        )
        return MetricExportResult.SUCCESS if taken else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        self._guarded.shutdown()

    def close(self) -> float:
        return self._guarded.close()

    def flush(self, flush: Callable[[], bool], timeout_millis: float) -> bool:
        return self._guarded.flush(flush, timeout_millis)


class BoundedMetricReader(PeriodicExportingMetricReader):
    """Exports the metrics periodically, and once more at the end unless the collector is in trouble."""

    def __init__(self, exporter: MetricExporter, bounded: BoundedExport) -> None:
        self._guard = _MetricGuard(exporter, bounded)
        super().__init__(self._guard)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Export what there is; `False` if that took longer or the collector did not take it."""
        return self._guard.flush(super().force_flush, timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        """Export what there is unless the collector is in trouble, and stop."""
        super().shutdown(min(timeout_millis, self._guard.close() * 1000))
