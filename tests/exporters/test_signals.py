"""The signal table against what really comes out, in both directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters import signals, signals_doc
from taskflow_otel.exporters.logs import LogsExporter
from taskflow_otel.exporters.metric_state import Histogram, Snapshot
from taskflow_otel.exporters.prometheus import PrometheusExporter
from taskflow_otel.exporters.tracing import TracingExporter
from taskflow_otel.model.status import TRANSITIONS, TaskStatus, Transition
from tests.exporters.story import Story, failure

DECLARED = {attribute.name for attribute in signals.ATTRIBUTES}
FAILING = frozenset({Transition.FAILED, Transition.RETRY_SCHEDULED})


class Observed:
    """All three signals of one process."""

    def __init__(self) -> None:
        self.span_exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.span_exporter))
        self.log_exporter = InMemoryLogRecordExporter()
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self.log_exporter))
        self.metrics = PrometheusExporter()
        self.metrics.register_task("send_email", "default")
        self.bus = ObserverBus(
            [TracingExporter(self.tracer_provider), LogsExporter(self.logger_provider), self.metrics]
        )

    def forget(self) -> None:
        self.span_exporter.clear()
        self.log_exporter.clear()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.span_exporter.get_finished_spans()


@pytest.fixture
def observed() -> Iterator[Observed]:
    made = Observed()
    yield made
    made.tracer_provider.shutdown()
    made.logger_provider.shutdown()


def brought_to(bus: ObserverBus, status: TaskStatus | None) -> Story:
    """A task in the state before a transition."""
    story = Story(bus, tags={"tenant": "a"}).created()
    if status is not None:
        story.enqueued()
    if status is TaskStatus.RUNNING:
        story.started()
    return story


def fields_of(transition: Transition, previous: TaskStatus | None) -> dict[str, Any]:
    """What the engine puts into the event of a transition."""
    if transition in FAILING:
        return failure() | ({"reason": "retry_wait"} if transition is Transition.RETRY_SCHEDULED else {})
    reasons = {
        Transition.INTERRUPTED: "process_died",
        Transition.RECOVERED: "process_died",
        Transition.REJECTED: "queue_full",
        Transition.CANCELLED: "cancelled" if previous is TaskStatus.RUNNING else "request_failed",
    }
    return {"reason": reasons[transition]} if transition in reasons else {}


def moved(before: Snapshot, after: Snapshot) -> set[str]:
    """The metrics that changed."""

    def plain(snapshot: Snapshot, name: str) -> Mapping[Any, Any]:
        children = snapshot.get(name, {})
        return {labels: v.counts if isinstance(v, Histogram) else v for labels, v in children.items() if v != 0}

    return {name for name in before | after if plain(before, name) != plain(after, name)}


def promised_spans(transition: Transition, previous: TaskStatus | None) -> set[str]:
    found = set()
    if transition in signals.SEND.ended_by and previous is None:
        found.add("send send_email")
    if transition in signals.PROCESS.ended_by and previous is TaskStatus.RUNNING:
        found.add("process send_email")
    return found


def promised_metrics(transition: Transition, previous: TaskStatus | None, status: TaskStatus) -> set[str]:
    """The metrics that name the transition, without those whose help restricts them to what the task did not do."""
    named = {spec.name for spec in signals.METRICS if transition in spec.on}
    if previous is not TaskStatus.RUNNING:
        of_attempts = {signals.TASK_ATTEMPTS, signals.RUN_DURATION, signals.END_TO_END}
        if transition is not Transition.STARTED:
            of_attempts.add(signals.TASKS_RUNNING)
        named -= {spec.name for spec in of_attempts}
    if transition is Transition.FAILED:
        named.discard(signals.TASKS_RECOVERED.name)
    return named


@pytest.mark.parametrize(("previous", "transition"), TRANSITIONS, ids=str)
def test_a_transition_emits_exactly_what_the_table_promises(
    observed: Observed, previous: TaskStatus | None, transition: Transition
) -> None:
    story = brought_to(observed.bus, previous)
    observed.forget()
    before = observed.metrics.snapshot()
    event = story.tell(transition, **fields_of(transition, previous))

    assert {span.name for span in observed.spans} == promised_spans(transition, previous)
    for span in observed.spans:
        spec = signals.SEND if span.name.startswith("send") else signals.PROCESS
        names = {name for name in span.attributes or {} if not name.startswith(signals.TAG_PREFIX)}
        assert set(spec.at_start) <= names <= set(spec.at_start) | set(spec.at_end)
        assert span.kind.name == spec.kind

    (record,) = [logged.log_record for logged in observed.log_exporter.get_finished_logs()]
    log = signals.LOGS[transition]
    assert (record.event_name, record.severity_text) == (log.event_name, log.severity)
    allowed = {*signals.LIFECYCLE_LOG_ATTRIBUTES, *(signals.EXCEPTION_LOG_ATTRIBUTES if log.exception else ())}
    assert set(record.attributes or {}) <= allowed
    if log.exception:
        assert set(signals.EXCEPTION_LOG_ATTRIBUTES) <= set(record.attributes or {})

    assert moved(before, observed.metrics.snapshot()) == promised_metrics(transition, previous, event.status)
    assert observed.bus.errors == {}


def test_a_log_entry_is_one_log_record_and_nothing_else(observed: Observed) -> None:
    story = brought_to(observed.bus, TaskStatus.RUNNING)
    observed.forget()
    before = observed.metrics.snapshot()
    story.log("hello", rows=1)
    (record,) = [logged.log_record for logged in observed.log_exporter.get_finished_logs()]
    assert record.event_name == signals.TASK_LOG.event_name
    assert set(record.attributes or {}) == {*signals.TASK_LOG_ATTRIBUTES, signals.LOG_PREFIX + "rows"}
    assert observed.spans == ()
    assert moved(before, observed.metrics.snapshot()) == set()


def test_every_transition_has_its_log_event() -> None:
    assert set(signals.LOGS) == set(Transition)


def test_every_attribute_in_use_is_explained() -> None:
    used = {name for spec in signals.SPANS for name in (*spec.at_start, *spec.at_end)}
    used |= {
        *signals.LIFECYCLE_LOG_ATTRIBUTES,
        *signals.EXCEPTION_LOG_ATTRIBUTES,
        *signals.TASK_LOG_ATTRIBUTES,
        signals.LINK,
        signals.TAG_PREFIX + "*",
        signals.LOG_PREFIX + "*",
    }
    assert used == DECLARED


def test_messaging_names_are_those_of_the_semantic_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import messaging_attributes
    from opentelemetry.semconv.schemas import Schemas

    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    assert {name for name in DECLARED if name.startswith("messaging.")} <= known
    assert Schemas.V1_44_0.value == signals.SCHEMA_URL


def test_metric_names_say_their_unit_and_kind() -> None:
    for spec in signals.METRICS:
        assert spec.name.startswith("taskflow_")
        assert spec.name.endswith("_total") == (spec.type == "counter")
        assert spec.name.endswith("_seconds") == (spec.unit == "seconds")
        assert bool(spec.buckets) == (spec.type == "histogram")
    assert len(signals.METRICS_BY_NAME) == len(signals.METRICS)


def test_the_page_about_telemetry_is_generated_from_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "telemetry.md"
    assert page.read_text("utf-8") == signals_doc.render(), (
        "run: python -m taskflow_otel.exporters.signals_doc > docs/telemetry.md"
    )
