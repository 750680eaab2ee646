from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from taskflow_otel.exporters.otel import bounded_export
from taskflow_otel.exporters.otel.batching import BoundedLogProcessor, BoundedMetricReader, BoundedSpanProcessor
from taskflow_otel.exporters.otel.bounded_export import BoundedExport
from tests.waiting import wait_until

BATCH = 50


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for signal in ("BSP", "BLRP"):
        monkeypatch.setenv(f"OTEL_{signal}_MAX_EXPORT_BATCH_SIZE", str(BATCH))
        # Exports come from full batches, flushes and the end alone.
        monkeypatch.setenv(f"OTEL_{signal}_SCHEDULE_DELAY", "1000000")


class Collector:
    """What the exporter of either signal does with a batch."""

    def __init__(self, *, takes: bool = True, hangs: bool = False) -> None:
        self.takes = takes
        self.attempts = 0
        self.received = 0
        self.shutdowns = 0
        self.entered = threading.Event()
        self.release = threading.Event()
        if not hangs:
            self.release.set()

    def take(self, number: int) -> bool:
        self.attempts += 1
        self.entered.set()
        assert self.release.wait(60)
        self.received += number if self.takes else 0
        return self.takes


class Spans(SpanExporter):
    def __init__(self, collector: Collector) -> None:
        self.collector = collector

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self.collector.take(len(spans)) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.collector.shutdowns += 1


class Logs(LogRecordExporter):
    def __init__(self, collector: Collector) -> None:
        self.collector = collector

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        return LogRecordExportResult.SUCCESS if self.collector.take(len(batch)) else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        self.collector.shutdowns += 1

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class Source:
    """A provider of either signal whose processor exports to `collector` through `bounded`."""

    def __init__(self, signal: str, collector: Collector, bounded: BoundedExport) -> None:
        self.provider: Any
        self.one: Callable[[], None]
        if signal == "spans":
            self.provider = TracerProvider()
            self.provider.add_span_processor(BoundedSpanProcessor(Spans(collector), bounded))
            tracer = self.provider.get_tracer("t")
            self.one = lambda: tracer.start_span("s").end()
        else:
            self.provider = LoggerProvider()
            self.provider.add_log_record_processor(BoundedLogProcessor(Logs(collector), bounded))
            log = self.provider.get_logger("t")
            self.one = lambda: log.emit(body="b", severity_number=SeverityNumber.INFO)

    def make(self, number: int) -> None:
        for _ in range(number):
            self.one()


@pytest.fixture(params=["spans", "log records"])
def signal(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def source(
    signal: str, collector: Collector, *, size: int = 100, pause: float = 1_000.0
) -> Iterator[tuple[Source, BoundedExport]]:
    bounded = BoundedExport(signal, size, pause=pause)
    source = Source(signal, collector, bounded)
    try:
        yield source, bounded
    finally:
        collector.release.set()
        source.provider.shutdown()


def test_everything_reaches_a_collector_that_is_well(signal: str) -> None:
    collector = Collector()
    with source(signal, collector, size=10_000) as (made, bounded):
        made.make(120)
        assert made.provider.force_flush()
        assert collector.received == 120
        made.make(30)
    assert (collector.received, collector.shutdowns, bounded.dropped) == (150, 1, 0)


def test_a_hung_collector_costs_a_bounded_queue_and_a_count(signal: str, caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector(hangs=True)
    with source(signal, collector) as (made, bounded), caplog.at_level(logging.DEBUG):
        made.make(BATCH)
        assert collector.entered.wait(30)
        made.make(10_000)
        assert bounded.dropped == 10_000 - 100
        assert caplog.records == [], "no log record for each that is dropped"
        assert not made.provider.force_flush(10), "a flush heeds its timeout"
    assert collector.received == BATCH + 100


def test_a_dead_collector_gets_one_attempt_in_a_pause(signal: str, caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector(takes=False)
    with source(signal, collector) as (made, bounded):
        for attempt in (1, 2):
            made.make(BATCH)
            wait_until(lambda attempt=attempt: collector.attempts == attempt, "an attempt")  # type: ignore[misc]
        made.make(BATCH)
        wait_until(lambda: bounded._pausing, "the pause")
        made.make(10_000)
        assert collector.attempts == 2
        assert not made.provider.force_flush(30_000), "a flush tries once more"
        assert collector.attempts == 3
    assert (collector.attempts, collector.shutdowns) == (3, 1), "the end does not"
    assert bounded.dropped == 3 * BATCH + 10_000
    assert len(caplog.records) == 1


def test_a_collector_that_is_back_gets_what_waited(signal: str) -> None:
    collector = Collector(takes=False)
    with source(signal, collector) as (made, bounded):
        for attempt in (1, 2):
            made.make(BATCH)
            wait_until(lambda attempt=attempt: collector.attempts == attempt, "an attempt")  # type: ignore[misc]
        made.make(BATCH)
        wait_until(lambda: bounded._pausing, "the pause")
        made.make(1_000)
        collector.takes = True
        assert made.provider.force_flush(30_000)
        assert collector.received == BATCH + 100
        made.make(7)
    assert (collector.received, bounded.dropped) == (BATCH + 100 + 7, 2 * BATCH + 900)


@pytest.mark.parametrize("known", [False, True], ids=["never heard of", "known"])
def test_the_end_waits_for_a_hung_collector_for_its_limit_only(
    signal: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_export, "_LAST_ANSWER" if known else "_FIRST_ANSWER", 0.01)
    collector = Collector()
    with source(signal, collector) as (made, _):
        if known:
            made.make(1)
            assert made.provider.force_flush()
        collector.release.clear()
        made.make(1)
        # The collector never answers: without the limit the SDK waits for 30 s, and `take` fails after 60.
        made.provider.shutdown()
        assert (collector.attempts, collector.shutdowns) == (1 + known, 1)


def test_spans_that_are_not_sampled_take_no_room() -> None:
    bounded = BoundedExport("spans", BATCH)
    provider = TracerProvider(sampler=ALWAYS_OFF)
    processor = BoundedSpanProcessor(Spans(Collector()), bounded)
    provider.add_span_processor(processor)
    for _ in range(3):
        provider.get_tracer("t").start_span("s").end()
        processor.on_end(ReadableSpan("without a context"))
    assert bounded._waiting == 0
    provider.shutdown()


class Metrics(MetricExporter):
    """Like OTLP exporters: it repeats a failed attempt until it is shut down."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self.collector = collector
        self.stopped = threading.Event()
        self.retries_ended = False

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> MetricExportResult:
        if self.collector.take(1):
            return MetricExportResult.SUCCESS
        self.retries_ended = self.stopped.wait(60)
        return MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        self.collector.shutdowns += 1
        self.stopped.set()


def metered(collector: Collector) -> tuple[MeterProvider, Metrics, BoundedExport]:
    exporter, bounded = Metrics(collector), BoundedExport("metrics", 1)
    provider = MeterProvider([BoundedMetricReader(exporter, bounded)], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("orders").add(1)
    return provider, exporter, bounded


def test_metrics_are_exported_once_more_at_the_end() -> None:
    collector = Collector()
    provider, _, _ = metered(collector)
    provider.force_flush()
    provider.shutdown()
    assert (collector.attempts, collector.received, collector.shutdowns) == (2, 2, 1)


def test_at_the_end_metrics_are_not_sent_again_and_again_to_a_collector_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_export, "_FIRST_ANSWER", 0.01)
    collector = Collector(takes=False)
    provider, exporter, _ = metered(collector)
    provider.shutdown()
    assert (collector.attempts, collector.shutdowns) == (1, 1)
    wait_until(lambda: exporter.retries_ended, "the end of the retries")


def test_at_the_end_no_metrics_are_sent_to_a_collector_that_fails_already() -> None:
    collector = Collector(takes=False)
    provider, exporter, bounded = metered(collector)
    exporter.stopped.set()
    provider.force_flush()
    assert bounded.failing
    provider.shutdown()
    assert (collector.attempts, collector.shutdowns) == (1, 1)


def test_a_flush_of_metrics_heeds_its_timeout_and_the_end_makes_no_further_attempt() -> None:
    collector = Collector(hangs=True)
    provider, exporter, bounded = metered(collector)
    try:
        provider.force_flush(10)
        assert collector.entered.wait(30)
        assert bounded.failing
        provider.shutdown()
        assert (collector.attempts, collector.shutdowns) == (1, 1)
    finally:
        exporter.stopped.set()
        collector.release.set()
