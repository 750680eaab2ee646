from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.logs import LogsExporter
from taskflow_otel.exporters.otel.tracing import TracingExporter
from tests.exporters.story import START, Story


class Logged:
    """A bus with tracing and logs, and what the SDK exported of the logs."""

    def __init__(self) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.bus = ObserverBus([TracingExporter(self.tracer_provider), LogsExporter(self.provider)])

    @property
    def records(self) -> list[ReadableLogRecord]:
        return list(self.exporter.get_finished_logs())


@pytest.fixture
def logged() -> Iterator[Logged]:
    made = Logged()
    yield made
    made.provider.shutdown()
    made.tracer_provider.shutdown()


def test_each_transition_is_a_record_in_the_context_of_its_span(logged: Logged) -> None:
    story = Story(logged.bus).created().enqueued().started().succeeded()
    trace = story.record.trace
    assert trace.attempt is not None
    send, process = int(trace.creation.span_id, 16), int(trace.attempt.span_id, 16)
    assert [(r.log_record.event_name, r.log_record.severity_text, r.log_record.span_id) for r in logged.records] == [
        ("taskflow.task.enqueued", "INFO", send),
        ("taskflow.task.started", "DEBUG", process),
        ("taskflow.task.succeeded", "INFO", process),
    ]
    assert {r.log_record.trace_id for r in logged.records} == {int(trace.creation.trace_id, 16)}
    first = logged.records[0]
    assert first.log_record.body == "send_email enqueued"
    assert first.log_record.timestamp == spans.nanoseconds(START) + 1_000_000_000
    assert first.instrumentation_scope is not None
    assert first.instrumentation_scope.schema_url == signals.SCHEMA_URL


def test_the_exception_is_recorded_once_with_type_message_and_traceback(logged: Logged) -> None:
    Story(logged.bus).created().enqueued().started().retried().started().failed()
    with_exception = [r.log_record for r in logged.records if "exception.type" in (r.log_record.attributes or {})]
    assert [r.event_name for r in with_exception] == ["taskflow.task.retry_scheduled", "taskflow.task.failed"]
    assert [r.severity_number for r in with_exception] == [SeverityNumber.WARN, SeverityNumber.ERROR]
    attributes = with_exception[1].attributes or {}
    assert attributes["exception.type"] == attributes["error.type"] == "ConnectionError"
    assert attributes["exception.message"] == "no route to host"
    assert str(attributes["exception.stacktrace"]).startswith("Traceback")


@pytest.mark.parametrize(
    ("level", "severity"),
    [("debug", "DEBUG"), ("info", "INFO"), ("warning", "WARN"), ("error", "ERROR"), ("critical", "FATAL")],
)
def test_a_log_entry_keeps_its_level_and_its_span(logged: Logged, level: str, severity: str) -> None:
    story = Story(logged.bus).created().enqueued().started()
    entry = story.log("halfway", level)
    record = logged.records[-1].log_record
    assert (record.event_name, record.body, record.severity_text) == ("taskflow.task.log", "halfway", severity)
    assert entry.span_id is not None
    assert record.span_id == int(entry.span_id, 16)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_structured_values_of_a_log_entry_are_kept_as_far_as_the_data_model_goes(logged: Logged) -> None:
    story = Story(logged.bus).created().enqueued().started()
    story.log("x", rows=3, ok=True, nested={"a": [1, 2.5]}, when=START, broken=Unprintable())
    attributes = dict(logged.records[-1].log_record.attributes or {})
    assert attributes["taskflow.log.rows"] == 3
    assert attributes["taskflow.log.ok"] is True
    assert attributes["taskflow.log.nested"] == {"a": (1, 2.5)}
    assert attributes["taskflow.log.when"] == str(START)
    assert attributes["taskflow.log.broken"] == f"<str() of {__name__}.Unprintable raised RuntimeError>"
    assert logged.bus.errors == {}


def test_a_record_of_an_untraced_task_does_not_take_the_span_that_happens_to_be_current(logged: Logged) -> None:
    bus = ObserverBus([LogsExporter(logged.provider)])
    with logged.tracer_provider.get_tracer("test").start_as_current_span("ambient"):
        Story(bus).created().enqueued()
    assert not logged.records[-1].log_record.span_id


def test_without_an_sdk_nothing_is_emitted_and_nothing_fails() -> None:
    bus = ObserverBus([LogsExporter()])
    Story(bus).created().enqueued().started().log("x")
    assert bus.errors == {}
