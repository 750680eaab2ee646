from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from taskflow_otel.bus import ObserverBus
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters import keys, signals
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.tracing import DEEPEST, TASK_ID_KEY, Propagation, TracingExporter
from taskflow_otel.model.status import Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from tests.exporters.story import START, Story


class Traced:
    """A bus with the tracing exporter, and what the SDK exported of it."""

    def __init__(self, propagation: Propagation = "auto") -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")
        self.bus = self.process(propagation)

    def process(self, propagation: Propagation = "auto") -> ObserverBus:
        """A further process that exports to the same place."""
        return ObserverBus([TracingExporter(self.provider, propagation=propagation)])

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, prefix: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith(prefix)]

    def send(self) -> ReadableSpan:
        (span,) = self.named("send ")
        return span


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.provider.shutdown()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def own(span: ReadableSpan) -> trace.SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def links_of(span: ReadableSpan) -> list[tuple[str, int]]:
    return [(str((link.attributes or {}).get(keys.LINK, "creation")), link.context.span_id) for link in span.links]


def test_request_send_and_process_are_one_trace(traced: Traced) -> None:
    with traced.tracer.start_as_current_span("GET /") as request:
        story = Story(traced.bus).created()
    story.enqueued().started().succeeded()
    send, (process,) = traced.send(), traced.named("process ")
    assert parent_of(send) == request.get_span_context().span_id
    assert parent_of(process) == own(send).span_id
    assert own(process).trace_id == request.get_span_context().trace_id
    assert links_of(process) == [("creation", own(send).span_id)]
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert process.status.status_code is StatusCode.UNSET
    assert story.record.trace_id == trace.format_trace_id(own(process).trace_id)


def test_spans_start_and_end_when_the_attempt_did(traced: Traced) -> None:
    Story(traced.bus).created().enqueued().started().succeeded()
    (process,) = traced.named("process ")
    assert process.start_time == spans.nanoseconds(START + timedelta(seconds=2))
    assert process.end_time == spans.nanoseconds(START + timedelta(seconds=3))
    assert traced.send().start_time == spans.nanoseconds(START)


def test_a_retry_stays_in_the_trace_and_links_to_the_attempt_before(traced: Traced) -> None:
    Story(traced.bus).created().enqueued().started().retried().started().retried().started().succeeded()
    send, (first, second, third) = traced.send(), traced.named("process ")
    assert {own(span).trace_id for span in (send, first, second, third)} == {own(send).trace_id}
    assert links_of(first) == [("creation", own(send).span_id)]
    assert links_of(second) == [("creation", own(send).span_id), ("previous_attempt", own(first).span_id)]
    assert links_of(third) == [("creation", own(send).span_id), ("previous_attempt", own(second).span_id)]
    assert first.status.status_code is StatusCode.ERROR
    assert (first.attributes or {})["error.type"] == "ConnectionError"
    assert third.status.status_code is StatusCode.UNSET


def test_a_retry_long_after_the_request_starts_a_new_trace(traced: Traced) -> None:
    story = Story(traced.bus).created().enqueued().started().retried()
    story.moment += timedelta(hours=1)
    story.started().succeeded()
    first, second = traced.named("process ")
    assert parent_of(second) is None
    assert links_of(second)[1] == ("previous_attempt", own(first).span_id)


def test_retries_after_that_stay_in_the_new_trace(traced: Traced) -> None:
    story = Story(traced.bus).created().enqueued().started().retried()
    story.moment += timedelta(hours=1)
    story.started().retried().started().succeeded()
    _, second, third = traced.named("process ")
    assert (parent_of(second), parent_of(third)) == (None, own(second).span_id)


def test_retries_after_a_takeover_stay_in_the_trace_of_the_first_attempt_there(traced: Traced) -> None:
    after = Story(traced.bus).created().enqueued().taken_over(traced.process())
    after.tell(Transition.RECOVERED, reason="process_died")
    after.started().retried().started().succeeded()
    first, second = traced.named("process ")
    assert (parent_of(first), parent_of(second)) == (None, own(first).span_id)


@pytest.mark.parametrize(("source", "what"), [("retry", "retry_of"), ("scheduled", "scheduled_by")])
def test_the_send_span_links_to_what_caused_the_task(traced: Traced, source: str, what: str) -> None:
    cause = SpanRef("1" * 32, "2" * 16, 1)
    Story(traced.bus, source=source, trace=TaskTrace(cause=cause)).created().enqueued().started().succeeded()
    assert links_of(traced.send()) == [(what, int("2" * 16, 16))]
    (process,) = traced.named("process ")
    assert links_of(process) == [("creation", own(traced.send()).span_id)]


@pytest.mark.parametrize("delayed", [False, True], ids=["at once", "each delayed"])
def test_a_task_that_adds_itself_makes_traces_of_a_bounded_length(traced: Traced, delayed: bool) -> None:
    number = 2 * DEEPEST + 5
    run_at = START if delayed else None
    story = Story(traced.bus, run_at=run_at).created().enqueued().started()
    for _ in range(number - 1):
        following = story.inside(lambda: Story(traced.bus, run_at=run_at).created())
        story.succeeded()
        story = following.enqueued().started()
    story.succeeded()
    length = Counter(own(span).trace_id for span in traced.named("send "))
    attempts = traced.named("process ")
    if delayed:
        # Each attempt starts a trace, with the next task in it.
        assert set(length.values()) == {1}
        return
    assert sorted(length.values()) == [5, DEEPEST, DEEPEST]
    links = [links_of(send) for send in sorted(traced.named("send "), key=lambda span: span.start_time or 0)]
    added = [found[0] for found in links if found]
    assert added == [("added_by", own(attempts[DEEPEST * n - 1]).span_id) for n in (1, 2)]


@pytest.mark.parametrize(
    "fields",
    [{"run_at": START + timedelta(seconds=1)}, {"source": "scheduled"}, {"source": "retry"}],
    ids=["delayed", "scheduled", "retried by hand"],
)
def test_a_task_apart_from_its_request_starts_a_new_trace_with_a_link(traced: Traced, fields: dict[str, Any]) -> None:
    Story(traced.bus, **fields).created().enqueued().started().retried().started().retried().started().succeeded()
    send, (first, second, third) = traced.send(), traced.named("process ")
    assert parent_of(first) is None
    assert own(first).trace_id != own(send).trace_id
    assert links_of(first) == [("creation", own(send).span_id)]
    # Its automatic retries stay with it.
    assert parent_of(second) == parent_of(third) == own(first).span_id
    assert links_of(third) == [("creation", own(send).span_id), ("previous_attempt", own(second).span_id)]


@pytest.mark.parametrize(("propagation", "child"), [("parent", True), ("link", False)])
def test_propagation_can_be_fixed(propagation: Propagation, child: bool) -> None:
    traced = Traced(propagation)
    Story(traced.bus, source="scheduled").created().enqueued().started().succeeded()
    send, (process,) = traced.send(), traced.named("process ")
    assert parent_of(process) == (own(send).span_id if child else None)
    assert links_of(process) == [("creation", own(send).span_id)]
    traced.provider.shutdown()


def test_an_unknown_propagation_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="auto, parent, link"):
        TracingExporter(propagation="both")  # type: ignore[arg-type]


def test_a_task_that_waited_in_a_dead_process_runs_in_a_new_trace(traced: Traced) -> None:
    before = Story(traced.bus).created().enqueued()
    after = before.taken_over(traced.process())
    after.tell(Transition.RECOVERED, reason="process_died")
    after.started().succeeded()
    send, (process,) = traced.send(), traced.named("process ")
    assert parent_of(process) is None
    assert links_of(process) == [("creation", own(send).span_id)]
    assert process.links[0].context.is_remote


def test_an_attempt_that_died_with_its_process_leaves_a_span(traced: Traced) -> None:
    before = Story(traced.bus).created().enqueued().started()
    lost = before.record.trace.attempt
    assert lost is not None
    lost_id = lost.span_id
    heartbeat = before.moment + timedelta(seconds=5)
    after = before.taken_over(traced.process())
    after.tell(Transition.RECOVERED, reason="process_died", end_time=heartbeat)
    after.record.attempt += 1
    after.started().succeeded()
    send, (dead, rerun) = traced.send(), traced.named("process ")
    assert dead.status.status_code is StatusCode.ERROR
    assert (dead.attributes or {})[keys.INTERRUPTED] is True
    assert dead.start_time == spans.nanoseconds(before.moment)
    assert dead.end_time == spans.nanoseconds(heartbeat)
    assert parent_of(dead) == own(send).span_id
    # It is the lost span: logs and inner spans name it.
    assert own(dead).span_id == int(lost_id, 16)
    assert own(dead).trace_id == own(send).trace_id
    assert links_of(dead) == [("creation", own(send).span_id)]
    assert parent_of(rerun) is None
    assert links_of(rerun) == [("creation", own(send).span_id), ("previous_attempt", own(dead).span_id)]


def test_a_dead_attempt_that_was_a_root_is_one_again(traced: Traced) -> None:
    before = Story(traced.bus, source="scheduled").created().enqueued().started()
    lost = before.record.trace.attempt
    assert lost is not None
    before.taken_over(traced.process()).tell(Transition.INTERRUPTED, reason="process_died")
    (dead,) = traced.named("process ")
    assert parent_of(dead) is None
    assert (own(dead).trace_id, own(dead).span_id) == (int(lost.trace_id, 16), int(lost.span_id, 16))


def test_a_dead_retry_is_in_the_trace_of_the_attempt_before(traced: Traced) -> None:
    before = Story(traced.bus, source="scheduled").created().enqueued().started().retried().started()
    (first,) = traced.named("process ")
    before.taken_over(traced.process()).tell(Transition.INTERRUPTED, reason="process_died")
    _, dead = traced.named("process ")
    assert parent_of(dead) == own(first).span_id
    assert links_of(dead)[1] == ("previous_attempt", own(first).span_id)


def test_a_tracer_that_takes_no_ids_links_to_the_lost_span(traced: Traced) -> None:
    class Plain(trace.TracerProvider):
        """Its tracers have no generator of ids that could be replaced."""

        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            tracer = traced.provider.get_tracer(*args, **kwargs)

            class Wrapped(trace.Tracer):
                start_span = staticmethod(tracer.start_span)
                start_as_current_span = staticmethod(tracer.start_as_current_span)

            return Wrapped()

    before = Story(traced.bus).created().enqueued().started()
    lost = before.record.trace.attempt
    assert lost is not None
    lost_id = lost.span_id
    before.taken_over(ObserverBus([TracingExporter(Plain())])).tell(Transition.INTERRUPTED, reason="process_died")
    (dead,) = traced.named("process ")
    assert links_of(dead)[1] == ("dead_attempt", int(lost_id, 16))


def test_a_dead_attempt_whose_span_was_never_stored_leaves_one_too(traced: Traced) -> None:
    before = Story(traced.bus).created().enqueued().started()
    before.record.trace.attempt = SpanRef()
    after = before.taken_over(traced.process())
    after.tell(Transition.INTERRUPTED, reason="process_died")
    (dead,) = traced.named("process ")
    assert links_of(dead) == [("creation", own(traced.send()).span_id)]
    assert after.record.span_id == trace.format_span_id(own(dead).span_id)


def test_an_interruption_by_shutdown_ends_the_open_span_once(traced: Traced) -> None:
    story = Story(traced.bus).created().enqueued().started()
    # The record still holds the error of an earlier attempt.
    story.tell(Transition.INTERRUPTED, reason="shutdown", error_type="ConnectionError", error="earlier")
    (process,) = traced.named("process ")
    assert (process.attributes or {})["error.type"] == "interrupted"
    assert process.status.description == "shutdown"
    assert process.status.status_code is StatusCode.ERROR
    assert (process.attributes or {})[keys.INTERRUPTED] is True


@pytest.mark.parametrize(
    ("reason", "status"), [("queue_full", StatusCode.ERROR), ("duplicate", StatusCode.UNSET)], ids=str
)
def test_a_refused_task_ends_its_send_span(traced: Traced, reason: str, status: StatusCode) -> None:
    Story(traced.bus).created().tell(Transition.REJECTED, reason=reason)
    send = traced.send()
    assert send.status.status_code is status
    assert (send.attributes or {}).get("error.type") == (reason if status is StatusCode.ERROR else None)


def test_a_cancelled_attempt_is_no_error(traced: Traced) -> None:
    Story(traced.bus).created().enqueued().started().tell(Transition.CANCELLED, reason="cancelled")
    (process,) = traced.named("process ")
    assert process.status.status_code is StatusCode.UNSET
    assert (process.attributes or {})[keys.OUTCOME] == "cancelled"


def test_an_attempt_that_was_taken_over_while_it_ran_has_one_span(traced: Traced) -> None:
    story = Story(traced.bus).created().enqueued().started()
    lost = story.record.trace.attempt
    assert lost is not None
    lost_id = lost.span_id
    story.taken_over(traced.process()).tell(Transition.INTERRUPTED, reason="process_died")
    traced.bus.refused(story.record)
    (process,) = traced.named("process ")
    assert own(process).span_id == int(lost_id, 16)
    assert (process.attributes or {})[keys.INTERRUPTED] is True


def test_an_attempt_whose_task_was_deleted_while_it_ran_has_its_span(traced: Traced) -> None:
    story = Story(traced.bus).created().enqueued().started()
    traced.bus.refused(story.record, deleted=True)
    (process,) = traced.named("process ")
    assert (process.status.status_code, (process.attributes or {})["error.type"]) == (
        StatusCode.ERROR,
        "StaleTokenError",
    )
    assert "deleted" in str(process.status.description)


def test_the_attempts_span_is_current_inside_the_function(traced: Traced) -> None:
    story = Story(traced.bus).created().enqueued().started()

    def function() -> tuple[str, object]:
        with traced.tracer.start_as_current_span("inner"):
            return trace.format_span_id(trace.get_current_span().get_span_context().span_id), context.get_value(
                TASK_ID_KEY
            )

    inner_id, task_id = story.inside(function)
    story.succeeded()
    (process,), (inner,) = traced.named("process "), traced.named("inner")
    assert parent_of(inner) == own(process).span_id
    assert trace.format_span_id(own(inner).span_id) == inner_id
    assert task_id == story.record.task_id
    assert not trace.get_current_span().get_span_context().is_valid


def test_baggage_of_the_request_is_there_inside_the_function_also_after_a_restart(traced: Traced) -> None:
    token = context.attach(baggage.set_baggage("tenant", "Zoë & sons"))
    story = Story(traced.bus).created()
    context.detach(token)
    after = story.enqueued().taken_over(traced.process()).started()
    assert after.inside(lambda: baggage.get_baggage("tenant")) == "Zoë & sons"
    assert baggage.get_baggage("tenant") is None


def test_tracestate_and_flags_survive_storage(traced: Traced) -> None:
    state = trace.TraceState([("vendor", "abc")])
    remote = trace.SpanContext(1, 2, True, trace.TraceFlags(1), state)
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
    story = Story(traced.bus).created().enqueued()
    context.detach(token)
    assert story.record.trace.creation.tracestate == "vendor=abc"
    after = story.taken_over(traced.process("parent"))
    after.started().succeeded()
    (process,) = traced.named("process ")
    assert own(process).trace_state == state
    assert own(process).trace_id == 1


def test_unsampled_tasks_pass_their_context_on_and_export_nothing() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    story = Story(ObserverBus([TracingExporter(provider)])).created().enqueued().started().succeeded()
    assert exporter.get_finished_spans() == ()
    assert story.record.trace.creation.valid
    assert story.record.trace.creation.trace_flags & 1 == 0
    provider.shutdown()


def test_without_an_sdk_nothing_is_stored_or_attached() -> None:
    story = Story(ObserverBus([TracingExporter()])).created().enqueued().started()
    assert not story.record.trace.creation.valid
    assert story.inside(lambda: context.get_value(TASK_ID_KEY)) is None
    story.succeeded()


def test_attributes_are_the_promised_ones_and_hold_no_arguments(traced: Traced) -> None:
    story = Story(traced.bus, tags={"tenant": "a"}, payload='{"secret": 1}', executor="thread", priority=7)
    story.created().enqueued().started().succeeded()
    send, (process,) = traced.send(), traced.named("process ")
    tags = {keys.TAG_PREFIX + "tenant": "a"}
    common = {
        "messaging.system": "taskflow",
        "messaging.destination.name": "send_email",
        "messaging.message.id": story.record.task_id,
        "taskflow.queue": "default",
        "taskflow.priority": 7,
        "taskflow.executor": "thread",
        "taskflow.source": "manual",
        "taskflow.instance": "here",
    }
    assert dict(send.attributes or {}) == common | tags | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    assert dict(process.attributes or {}) == common | tags | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "taskflow.attempt": 0,
        "taskflow.queue_wait": 0.25,
        "taskflow.outcome": "succeeded",
    }
    assert process.instrumentation_scope is not None
    assert process.instrumentation_scope.schema_url == signals.SCHEMA_URL


@pytest.mark.parametrize(("opt_in", "events"), [("", 0), ("logs", 0), ("logs/dup", 1)])
def test_an_exception_is_a_span_event_only_on_request(
    monkeypatch: pytest.MonkeyPatch, opt_in: str, events: int
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", opt_in)
    traced = Traced()
    Story(traced.bus).created().enqueued().started().failed()
    (process,) = traced.named("process ")
    assert len(process.events) == events
    traced.provider.shutdown()


def test_nothing_is_kept_of_finished_tasks(traced: Traced) -> None:
    exporter = TracingExporter(traced.provider)
    bus = ObserverBus([exporter])
    Story(bus).created().enqueued().started().retried().started().failed()
    Story(bus).created().tell(Transition.REJECTED, reason="queue_full")
    Story(bus).created().enqueued().tell(Transition.CANCELLED, reason="request_failed")
    story = Story(bus).created().enqueued().started()
    bus.refused(story.record)
    assert exporter._open == {}
