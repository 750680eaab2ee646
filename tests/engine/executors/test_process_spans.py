"""Spans recorded without an SDK, and told to one."""

from __future__ import annotations

import asyncio
import enum

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from taskflow_otel.engine.executors.process_spans import FinishedSpan, RecordingTracerProvider, SpanForwarder, plain

PARENT = SpanContext(0xA, 0xB, True, TraceFlags(TraceFlags.SAMPLED), TraceState([("vendor", "x")]))


class Colour(enum.StrEnum):
    RED = "red"


@pytest.fixture
def finished() -> list[FinishedSpan]:
    return []


@pytest.fixture
def tracer(finished: list[FinishedSpan]) -> trace.Tracer:
    return RecordingTracerProvider(finished.append).get_tracer("shop", "1.0", "https://example.com/schema", {"a": 1})


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def forwarder(exporter: InMemorySpanExporter) -> SpanForwarder:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return SpanForwarder(provider)


def below(context: SpanContext) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def test_a_span_is_told_as_it_was_recorded(
    tracer: trace.Tracer, finished: list[FinishedSpan], forwarder: SpanForwarder, exporter: InMemorySpanExporter
) -> None:
    link = SpanContext(0xC, 0xD, True)
    span = tracer.start_span(
        "first", below(PARENT), SpanKind.CLIENT, {"n": 1}, [Link(link, {"why": "so"})], start_time=100
    )
    span.update_name("second")
    span.set_attributes({"colour": Colour.RED, "list": [1, 2]})
    span.add_event("event", {"x": True}, 150)
    span.set_status(StatusCode.ERROR, "bad")
    span.end(200)
    forwarder.forward(finished[0])

    told, identity = only(exporter), span.get_span_context()
    assert (told.name, told.kind, told.start_time, told.end_time) == ("second", SpanKind.CLIENT, 100, 200)
    assert (told.context.trace_id, told.context.span_id) == (0xA, identity.span_id)
    assert told.context.trace_state.to_header() == "vendor=x"
    assert told.parent is not None
    assert told.parent.span_id == 0xB
    assert dict(told.attributes or {}) == {"n": 1, "colour": "red", "list": (1, 2)}
    assert [(event.name, dict(event.attributes or {}), event.timestamp) for event in told.events] == [
        ("event", {"x": True}, 150)
    ]
    assert [(item.context.span_id, dict(item.attributes or {})) for item in told.links] == [(0xD, {"why": "so"})]
    assert (told.status.status_code, told.status.description) == (StatusCode.ERROR, "bad")
    scope = told.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.version, scope.schema_url) == ("shop", "1.0", "https://example.com/schema")
    assert dict(scope.attributes or {}) == {"a": 1}


def test_a_root_span_keeps_its_trace_id(
    tracer: trace.Tracer, finished: list[FinishedSpan], forwarder: SpanForwarder, exporter: InMemorySpanExporter
) -> None:
    span = tracer.start_span("root", Context())
    span.end()
    forwarder.forward(finished[0])
    assert only(exporter).context.trace_id == span.get_span_context().trace_id
    assert only(exporter).parent is None


def test_below_a_parent_that_is_not_sampled_nothing_is_recorded(
    tracer: trace.Tracer, finished: list[FinishedSpan]
) -> None:
    span = tracer.start_span("quiet", below(SpanContext(1, 2, True, TraceFlags(0))))
    assert not span.is_recording()
    assert span.get_span_context().trace_id == 1
    span.end()
    assert not finished


def test_the_status_ok_is_final_and_unset_changes_nothing(tracer: trace.Tracer, finished: list[FinishedSpan]) -> None:
    span = tracer.start_span("span")
    span.set_status(Status(StatusCode.ERROR, "bad"))
    span.set_status(StatusCode.UNSET)
    span.set_status(StatusCode.OK)
    span.set_status(StatusCode.ERROR)
    span.end()
    assert finished[0].status == "OK"


def test_after_its_end_a_span_takes_nothing_more(tracer: trace.Tracer, finished: list[FinishedSpan]) -> None:
    span = tracer.start_span("span")
    span.end(5)
    span.end(6)
    span.set_attribute("late", 1)
    span.add_event("late")
    span.add_link(PARENT)
    assert [item.end_time for item in finished] == [5]
    assert (finished[0].attributes, finished[0].events, finished[0].links) == ({}, [], [])


async def test_a_coroutine_can_be_decorated_with_a_span(tracer: trace.Tracer, finished: list[FinishedSpan]) -> None:
    @tracer.start_as_current_span("whole")
    async def work() -> bool:
        await asyncio.sleep(0)
        return trace.get_current_span().is_recording()

    assert await work()
    assert [span.name for span in finished] == ["whole"]


def test_what_no_other_process_may_know_becomes_text() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    endless: list[object] = []
    endless.append(endless)
    assert plain({"a": (1, Odd()), 2: {3}}) == {"a": [1, "odd"], "2": [3]}
    assert "..." in str(plain(endless))


@pytest.mark.parametrize("kind", [RuntimeError, asyncio.CancelledError])
def test_a_provider_that_fails_harms_nobody(
    kind: type[BaseException], tracer: trace.Tracer, finished: list[FinishedSpan], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *args: object, **kwargs: object) -> trace.Tracer:
            raise kind("no tracer today")

    tracer.start_span("span").end()
    SpanForwarder(Broken()).forward(finished[0])
    assert "could not export a span" in caplog.text


def test_a_provider_without_the_sdks_id_generator_gets_the_span_too(
    tracer: trace.Tracer, finished: list[FinishedSpan]
) -> None:
    told: list[FinishedSpan] = []
    tracer.start_span("span", below(PARENT)).end(7)
    SpanForwarder(RecordingTracerProvider(told.append)).forward(finished[0])
    assert [(span.name, span.end_time, span.parent) for span in told] == [("span", 7, finished[0].parent)]
