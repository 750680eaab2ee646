"""What `compat.opentelemetry` relies on. Seen in OpenTelemetry 1.45.2 and its instrumentation of FastAPI 0.66b2."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import Counter
from opentelemetry.sdk.metrics.export import AggregationTemporality, ConsoleMetricExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode

from taskflow_otel.compat import opentelemetry as compat
from taskflow_otel.compat.opentelemetry import (
    agnosticcontextmanager,
    is_instrumented,
    metric_preferences,
    shut_down,
    with_ids,
)
from tests.compat.shapes import Shape

API = Shape("opentelemetry-api", "1.45.2")
SDK = Shape("opentelemetry-sdk", "1.45.2")
LOGGING = Shape("opentelemetry-instrumentation-logging", "0.66b2")
INSTRUMENTATION = Shape("opentelemetry-instrumentation-fastapi", "0.66b2")

GLOBALS = """
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from taskflow_otel.compat.opentelemetry import is_unset_global
providers = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
print([is_unset_global(provider) for provider in providers])
trace.set_tracer_provider(TracerProvider())
print(is_unset_global(trace.get_tracer_provider()))
"""


class Given:
    """Gives always the same ids."""

    def generate_span_id(self) -> int:
        return 0xB

    def generate_trace_id(self) -> int:
        return 0xA

    def is_trace_id_random(self) -> bool:
        return True


def test_a_global_provider_that_nobody_has_set_is_known_by_its_class() -> None:
    program = subprocess.run([sys.executable, "-c", GLOBALS], capture_output=True, text=True, check=True)
    API.holds(
        program.stdout.split("\n")[:2] == ["[True, True, True]", "False"],
        "get_tracer_provider, get_meter_provider and get_logger_provider return stand-ins of other names until an SDK "
        f"is set (is_unset_global said {program.stdout!r}); look for the classes that begin with Proxy or _Proxy.",
    )


async def test_the_decorator_of_a_tracer_runs_a_coroutine_inside_of_what_it_opens() -> None:
    events: list[str] = []

    @agnosticcontextmanager
    def opened() -> Iterator[None]:
        events.append("opened")
        yield
        events.append("closed")

    @opened()
    async def decorated() -> None:
        events.append("ran")

    await decorated()
    with opened():
        events.append("inside")
    API.holds(
        events == ["opened", "ran", "closed", "opened", "inside", "closed"],
        "look at what decorates Tracer.start_as_current_span in opentelemetry/trace/__init__.py, and use that.",
    )


def test_a_tracer_of_the_sdk_takes_the_ids_that_it_is_given() -> None:
    provider = TracerProvider()
    tracer = provider.get_tracer("shop")
    given = with_ids(tracer, Given()).start_span("given").get_span_context()
    own = tracer.start_span("own").get_span_context()
    provider.shutdown()
    SDK.holds(
        (given.trace_id, given.span_id) == (0xA, 0xB) and own.span_id != 0xB,
        "Tracer in opentelemetry/sdk/trace/__init__.py asks something else than its attribute id_generator for ids, or "
        "a copy of it shares that attribute; otherwise spans of child processes get new ids.",
    )


def test_an_exporter_of_metrics_tells_its_preferences() -> None:
    temporality: dict[type, AggregationTemporality] = {Counter: AggregationTemporality.DELTA}
    found = metric_preferences(ConsoleMetricExporter(preferred_temporality=temporality))
    SDK.holds(
        found == (temporality, None),
        "MetricExporter in opentelemetry/sdk/metrics/export keeps its preferred temporality and aggregation elsewhere; "
        "a collector that wants deltas would get totals.",
    )


def test_a_tracer_without_replaceable_ids_is_used_as_it_is() -> None:
    tracer = NoOpTracer()
    assert with_ids(tracer, Given()) is tracer


def test_an_application_that_was_instrumented_bears_the_mark_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "find_spec", lambda name: None)
    app = FastAPI()
    before = is_instrumented(app)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=trace.NoOpTracerProvider())
    after = is_instrumented(app)
    FastAPIInstrumentor.uninstrument_app(app)
    INSTRUMENTATION.holds(
        (before, after) == (False, True),
        "FastAPIInstrumentor.instrument_app marks an application otherwise than by _is_instrumented_by_opentelemetry; "
        "an application would be instrumented twice.",
    )


def test_a_fastapi_with_telemetry_of_its_own_is_known_by_its_module() -> None:
    Shape("fastapi", "0.165.0").holds(
        is_instrumented(FastAPI()),
        "there is no module fastapi.telemetry; find out whether FastAPI still traces its requests by itself.",
    )


def test_the_handlers_that_export_logging_are_known_by_their_name() -> None:
    from opentelemetry.instrumentation.logging.handler import LoggingHandler

    class Own(LoggingHandler):
        """An application's."""

    class Other(logging.Handler):
        """Exports nothing."""

    LOGGING.holds(
        compat.exports_logging(LoggingHandler()) and compat.exports_logging(Own()),
        "the handler that exports records of logging is a class LoggingHandler of a package of OpenTelemetry; without "
        "that, a line of a task is exported twice (capture_logs).",
    )
    assert not compat.exports_logging(Other())


def test_while_the_sdk_exports_its_context_says_so() -> None:
    seen: list[bool] = []

    class Exporter(SpanExporter):
        """Looks at its context."""

        def export(self, spans: object) -> SpanExportResult:
            seen.append(compat.is_exporting())
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            """There is nothing to close."""

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    provider.get_tracer("shop").start_span("look up").end()
    SDK.holds(
        seen == [True] and not compat.is_exporting(),
        "the processors of the SDK set _SUPPRESS_INSTRUMENTATION_KEY of opentelemetry.context while they export.",
    )


def test_a_batch_processor_that_is_shut_down_waits_for_a_hung_export_as_long_as_it_is_told() -> None:
    entered, release, shut = threading.Event(), threading.Event(), threading.Event()

    class Exporter(SpanExporter):
        """Never answers."""

        def export(self, spans: object) -> SpanExportResult:
            entered.set()
            assert release.wait(60)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            shut.set()

    provider = TracerProvider(shutdown_on_exit=False)
    processor = BatchSpanProcessor(Exporter())
    provider.add_span_processor(processor)
    provider.get_tracer("shop").start_span("look up").end()
    try:
        shut_down(processor, 0.01)
        SDK.holds(
            shut.is_set() and entered.wait(30) and not release.is_set(),
            "BatchSpanProcessor and BatchLogRecordProcessor have a _batch_processor whose shutdown takes milliseconds.",
        )
    finally:
        release.set()


def test_what_a_span_says_is_read_in_one_step() -> None:
    class Public:
        """The properties of a span alone."""

        def __init__(self, span: ReadableSpan) -> None:
            self.span = span

        def __getattr__(self, name: str) -> object:
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(self.span, name)

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("shop")
    parent = tracer.start_span("order")
    within = trace.set_span_in_context(parent)
    child = tracer.start_span("look up", within, SpanKind.CLIENT, {"db.system.name": "x", "n": [1, 2]}, start_time=5)
    child.set_status(StatusCode.ERROR, "gone")
    child.end(7)
    found = compat.span_rows([parent, child])
    ids = [span.get_span_context().span_id for span in (parent, child)]
    attributes = {"db.system.name": "x", "n": (1, 2)}
    SDK.holds(
        found[1] == [7, ids[1], ids[0], "look up", SpanKind.CLIENT, 5, StatusCode.ERROR, "gone", attributes]
        and found[0][:5] == [None, ids[0], None, "order", SpanKind.INTERNAL]
        and type(found[1][-1]) is dict,
        "spans have the private attributes that `span_rows` reads; without them it works and takes ten times as long.",
    )
    assert compat.span_rows([Public(parent), Public(child)]) == found  # type: ignore[arg-type]
    parent.end()
