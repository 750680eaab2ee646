"""Spans: `send {task}` when a task is added, `process {task}` for each attempt (`docs/telemetry.md`)."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Literal, get_args

from msgspec import Struct
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from taskflow_otel.bus import Exporter
from taskflow_otel.compat.opentelemetry import with_ids
from taskflow_otel.errors import ConfigurationError, StaleTokenError
from taskflow_otel.exporters import keys, signals
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.providers import NEVER, ProviderSlot
from taskflow_otel.exporters.otel.span_keeper import SpanKeeper
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.model.vocabulary import PROCESS_DEATHS, Reason, Source
from taskflow_otel.version import __version__

Propagation = Literal["auto", "parent", "link"]
PROPAGATIONS: tuple[str, ...] = get_args(Propagation)

SOON = 60.0
"""With `auto`, an attempt belongs to the trace of its request if it starts within this many seconds of the creation."""

EXCEPTION_SIGNAL_OPT_IN = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"
TASK_ID_KEY = otel_context.create_key("taskflow.task_id")
"""The key of the task id in the context of an attempt, for log correlation."""
DEEPEST = 32
"""How many tasks, each added by the one before, are in one trace. A task that adds itself would make an endless one."""
_DEPTH_KEY = otel_context.create_key("taskflow.depth")
"""The key, in the context of an attempt, of the number of tasks above it in its trace, itself included."""

_SOON = timedelta(seconds=SOON)
# Module-level names: until Python 3.12, the lookup of an enum member takes as long as a call.
_MANUAL, _RETRY = Source.MANUAL, Source.RETRY
_PRODUCER, _CONSUMER = SpanKind.PRODUCER, SpanKind.CONSUMER
_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
_STARTED, _REJECTED, _RECOVERED = Transition.STARTED, Transition.REJECTED, Transition.RECOVERED
_NOT_AN_ERROR = frozenset({Transition.SUCCEEDED, Transition.CANCELLED})
_CRASHES = frozenset({Transition.INTERRUPTED, Transition.RECOVERED})


class _Open(Struct, eq=False):
    """The open spans of one task of this process."""

    send: Span | None
    creation: SpanContext | None
    """The context of the `send` span, if this process made it or claimed the task; `None` for a task taken over."""
    context: Context | None
    """A context in which the `send` span is current."""
    depth: int = 0
    """How many tasks the trace of the `send` span has had, this one included."""
    attempt: Span | None = None
    root: SpanContext | None = None
    """The latest attempt that started a trace: later retries stay in it."""


class TracingExporter(Exporter):
    """Emits the spans, and makes the attempt's span current inside the task's function.

    It must be first on the bus, so that later exporters find the span's ids in the event. `tracer_provider=None` means
    the global one, which may be set later; until then new tasks look for it, at most every 50 ms.

    `propagation` sets the parent of an attempt's span. `"auto"`: the `send` span, if the same process starts the
    attempt soon after code added the task; a delayed, scheduled, recovered or manually retried attempt starts a new
    trace, in which its automatic retries stay. `"parent"`: always the `send` span. `"link"`: never. In each case the
    span links to the `send` span, and to that of the previous attempt. Raises `ConfigurationError` for another value.
    Later exporters find the contexts of its spans in `contexts`, and `keeper` gets the spans inside them. `release`:
    that of the application; the span of an attempt whose process has died does not know it.
    """

    name = "tracing"

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        *,
        propagation: Propagation = "auto",
        contexts: spans.SpanContexts | None = None,
        keeper: SpanKeeper | None = None,
        release: str = "",
    ) -> None:
        if propagation not in PROPAGATIONS:
            raise ConfigurationError(f"propagation must be one of {', '.join(PROPAGATIONS)}, not {propagation!r}")
        self._propagation = propagation
        self._exception_events = "logs/dup" in os.environ.get(EXCEPTION_SIGNAL_OPT_IN, "")
        self._slot = ProviderSlot(tracer_provider, trace.get_tracer_provider)
        self._tracer: Tracer | None = None
        self._open: dict[str, _Open] = {}
        self._contexts = contexts or spans.SpanContexts()
        self._keeper = keeper
        self._release = release

    def start(self) -> None:
        """Look for the provider before the first request, whose span is begun before the first task."""
        if self._slot.look_again < NEVER:
            self._active(self._slot.look_again)

    def idle_until(self, now: datetime) -> datetime | None:
        """The time of the next look for a provider; `None` once there is one."""
        return None if self._tracer is not None or self._active(now) is not None else self._slot.look_again

    def _active(self, now: datetime) -> Tracer | None:
        """The tracer, once an effective provider is set."""
        if self._tracer is None:
            provider = self._slot.look(now)
            if provider is not None:
                if self._keeper is not None and not self._keeper.attach(provider):
                    self._keeper = None
                self._tracer = provider.get_tracer(signals.SCOPE, __version__, schema_url=signals.SCHEMA_URL)
        return self._tracer

    def on_created(self, record: TaskRecord) -> None:
        """Start the `send` span in the current context; it ends when the task is accepted or refused."""
        tracer = self._tracer or self._active(record.created_at)
        if tracer is None:
            return
        links: list[Link] = []
        if record.trace.cause is not None:
            what = "retry_of" if record.source == _RETRY else "scheduled_by"
            links = _link(spans.restore(record.trace.cause, is_remote=True), what)
        around: Context | None = None
        current = otel_context.get_current()
        above = current.get(_DEPTH_KEY)
        depth = above + 1 if isinstance(above, int) else 1
        if depth > DEEPEST:
            around, depth = Context(), 1
            links += _link(trace.get_current_span().get_span_context(), "added_by")
        span = tracer.start_span(
            signals.SEND.name(record.func_name),
            around,
            _PRODUCER,
            self._attributes("send", record),
            links,
            spans.nanoseconds(record.created_at),
        )
        context = span.get_span_context()
        inside = self._contexts.add(context, record.trace.creation)
        record.trace.baggage = spans.baggage_header(current) if current else ""
        if self._keeper is not None and current:
            self._keeper.added(record.task_id, current, span)
        known = bool(record.trace.creation.span_id)
        self._open[record.task_id] = _Open(span, context if known else None, inside if known else None, depth)

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Start or end what the transition starts or ends."""
        if self._tracer is None and (not event.trace.creation.trace_id or self._active(event.timestamp) is None):
            # Nothing traces yet; only a task of another process can have spans already.
            return
        transition = event.transition
        if transition is _STARTED:
            self._start_attempt(event)
            return
        entry = self._open.get(event.task_id)
        if entry is not None and entry.send is not None:
            _end_send(entry.send, event)
            entry.send = None
            self._contexts.ended(event.trace.creation)
        status = event.status
        # `ends_attempt` and `finished` without their calls.
        if event.previous is _RUNNING and status is not _RUNNING:
            span = entry.attempt if entry is not None else None
            if span is not None and entry is not None:
                entry.attempt = None
                self._end_attempt(span, event)
                self._contexts.ended(event.span)
            elif event.reason in PROCESS_DEATHS:
                self._emit_dead_attempt(event)
        ended = status is not _PENDING and status is not _RUNNING
        if entry is not None and (ended or transition is _RECOVERED):
            # A task that its own process took over no longer belongs to its request.
            self._forget(event.task_id)

    def on_refused(self, record: TaskRecord, deleted: bool) -> None:
        """Another instance has taken the task over: forget the span of this attempt. End that of a deleted task."""
        entry = self._open.get(record.task_id)
        if deleted and entry is not None and (span := entry.attempt) is not None:
            # Nobody else tells of this attempt, and the spans inside it have it as their parent.
            span.set_attribute(keys.ERROR_TYPE, StaleTokenError.__name__)
            span.set_status(Status(StatusCode.ERROR, "the task was deleted from the ledger while it ran"))
            span.end()
        # A new owner has emitted a span with the ids of this one, which is not ended, and so not exported.
        self._forget(record.task_id)

    def on_given(self, record: TaskRecord) -> None:
        """The process that claims the task makes its further spans."""
        self._forget(record.task_id)

    def _forget(self, task_id: str) -> None:
        self._open.pop(task_id, None)
        if self._keeper is not None:
            self._keeper.forget(task_id)

    def on_claimed(self, record: TaskRecord) -> None:
        """Continue the trace of the request as the process would that enqueued the task, unless that one has died."""
        if (self._tracer or self._active(record.created_at)) is None:
            return
        creation = spans.restore(record.trace.creation, is_remote=True)
        if creation is not None and all(line.transition is not Transition.RECOVERED for line in record.timeline):
            entry = self._open[record.task_id] = _Open(None, creation, None)
            # Its earlier attempts were elsewhere. If they have a trace of their own, this one stays in it.
            before = None if record.trace.attempt is None else spans.restore(record.trace.attempt, is_remote=True)
            if before is not None and before.trace_id != creation.trace_id:
                entry.root = before

    def dropped(self) -> int:
        """How many spans of this process were not exported to the collector: see `configure_telemetry`."""
        return self._slot.dropped()

    def flush(self, timeout: float) -> None:
        """Ask the SDK to export what it has buffered."""
        self._slot.force_flush(timeout)

    def _start_attempt(self, event: LifecycleEvent) -> None:
        tracer = self._tracer
        if tracer is None:
            return
        entry = self._open.get(event.task_id)
        local = entry.creation if entry is not None else None
        creation = local or spans.restore(event.trace.creation, is_remote=True)
        attributes = self._attributes("process", event)
        attributes[keys.ATTEMPT] = event.attempt
        if event.queue_wait is not None:
            attributes[keys.QUEUE_WAIT] = event.queue_wait
        started = event.start_time or event.timestamp
        base = spans.context_with_baggage(event.trace.baggage)
        if entry is None:
            entry = self._open[event.task_id] = _Open(None, None, None)
        parent, depth = base, 0
        if creation is not None and self._continues(event, started, local=local is not None):
            depth = entry.depth
            if entry.context is not None and not base:
                parent = entry.context
            else:
                parent = spans.context_with(NonRecordingSpan(creation), base)
        elif entry.root is not None and self._propagation == "auto":
            parent = spans.context_with(NonRecordingSpan(entry.root), base)
        span = tracer.start_span(
            signals.PROCESS.name(event.func_name),
            parent,
            _CONSUMER,
            attributes,
            _links(creation, event.trace.previous),
            spans.nanoseconds(started),
        )
        identity = span.get_span_context()
        around: dict[str, object] = {
            **base, TASK_ID_KEY: event.task_id, _DEPTH_KEY: depth, spans.SPAN_KEY: span,
        }  # fmt: skip
        if self._keeper is not None and span.is_recording():
            around[self._keeper.key] = self._keeper.begin(event.task_id, identity)
        inside = Context(around)
        self._contexts.add(identity, event.span, inside)
        entry.attempt = span
        if parent is base:
            entry.root = identity
        # This runs in the attempt's own context, so nothing must be detached.
        otel_context.attach(inside)

    def _attributes(self, operation: str, task: TaskRecord | LifecycleEvent) -> dict[str, AttributeValue]:
        """The attributes of a span that tells what happens in this process."""
        attributes = _attributes(operation, task)
        if self._release:
            attributes[keys.RELEASE] = self._release
        return attributes

    def _continues(self, event: LifecycleEvent, started: datetime, *, local: bool) -> bool:
        """Whether the attempt is a child of the `send` span."""
        if self._propagation != "auto":
            return self._propagation == "parent"
        if not local or event.source != _MANUAL or started - event.created_at > _SOON:
            return False
        if event.attempt == 0:
            return event.run_at is None
        # A retry stays in the trace of the previous attempt.
        previous = event.trace.previous
        return previous is None or not previous.valid or previous.trace_id == event.trace.creation.trace_id

    def _end_attempt(self, span: Span, event: LifecycleEvent) -> None:
        if span.is_recording():
            _describe_end(span, event)
            if self._exception_events and event.exception is not None:
                span.record_exception(event.exception)
        span.end(spans.nanoseconds(event.end_time or event.timestamp))

    def _emit_dead_attempt(self, event: LifecycleEvent) -> None:
        """Emit the span of an attempt whose process died, so that a crash leaves a span too."""
        tracer = self._tracer
        if tracer is None:
            return
        started = event.start_time or event.timestamp
        creation = spans.restore(event.trace.creation, is_remote=True)
        links = _links(creation, event.trace.previous)
        parent: SpanContext | None = None
        if (dead := spans.restore(event.span, is_remote=True)) is None:
            # Its ids were never stored.
            parent = creation if creation is not None and self._continues(event, started, local=True) else None
        elif (alike := with_ids(tracer, spans.GivenIds(event.span))) is not tracer:
            # The span that the dead process would have ended: logs and the spans inside it have its ids.
            tracer = alike
            parent = _in_trace_of(dead, creation, event.trace.previous)
        else:
            # The dead span was never exported; its children and logs are in its trace.
            parent = _in_trace_of(dead, creation, event.trace.previous) or dead
            links += _link(dead, "dead_attempt")
        context = Context() if parent is None else spans.context_with(NonRecordingSpan(parent))
        attributes = _attributes("process", event)
        attributes[keys.ATTEMPT] = event.attempt
        attributes[keys.INTERRUPTED] = True
        start = spans.nanoseconds(started)
        span = tracer.start_span(
            signals.PROCESS.name(event.func_name),
            context,
            _CONSUMER,
            attributes,
            links,
            start,
        )
        if span.is_recording():
            _describe_end(span, event)
        span.end(max(start, spans.nanoseconds(event.end_time or event.timestamp)))
        # The next attempt must link to this span, which exists.
        self._contexts.add(span.get_span_context(), event.span)


def _attributes(operation: str, task: TaskRecord | LifecycleEvent) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        keys.MESSAGING_SYSTEM: keys.SYSTEM,
        keys.MESSAGING_OPERATION_NAME: operation,
        keys.MESSAGING_OPERATION_TYPE: operation,
        keys.MESSAGING_DESTINATION_NAME: task.func_name,
        keys.MESSAGING_MESSAGE_ID: task.task_id,
        keys.QUEUE: task.queue,
        keys.PRIORITY: task.priority,
        keys.EXECUTOR: task.executor,
        keys.SOURCE: task.source,
        keys.INSTANCE: task.instance,
    }
    if task.tags:
        for key, value in task.tags.items():
            attributes[keys.TAG_PREFIX + key] = value
    return attributes


def _in_trace_of(dead: SpanContext, creation: SpanContext | None, previous: SpanRef | None) -> SpanContext | None:
    """The parent of a span that died: the `send` span, or the attempt before, if it was in the same trace."""
    before = None if previous is None else spans.restore(previous, is_remote=True)
    return next((one for one in (creation, before) if one is not None and one.trace_id == dead.trace_id), None)


def _link(context: SpanContext | None, what: str) -> list[Link]:
    return [] if context is None else [Link(context, {keys.LINK: what})]


def _links(creation: SpanContext | None, previous: SpanRef | None) -> list[Link]:
    links = [] if creation is None else [Link(creation)]
    if previous is not None:
        links += _link(spans.restore(previous, is_remote=True), "previous_attempt")
    return links


def _end_send(span: Span, event: LifecycleEvent) -> None:
    if event.transition is _REJECTED and event.reason != Reason.DUPLICATE and span.is_recording():
        span.set_attribute(keys.ERROR_TYPE, event.error_type or event.reason or TaskStatus.REJECTED.value)
        span.set_status(Status(StatusCode.ERROR, event.error or event.reason))
    span.end()


def _describe_end(span: Span, event: LifecycleEvent) -> None:
    span.set_attribute(keys.OUTCOME, str(event.transition))
    if event.reason is not None:
        span.set_attribute(keys.REASON, event.reason)
    if event.transition in _NOT_AN_ERROR:
        return
    # After an interruption by shutdown, the event's error belongs to an earlier attempt.
    own_error = event.transition not in _CRASHES or event.reason in PROCESS_DEATHS
    error_type, error = (event.error_type, event.error) if own_error else (TaskStatus.INTERRUPTED.value, None)
    span.set_attribute(keys.ERROR_TYPE, error_type or "_OTHER")
    if event.transition in _CRASHES:
        span.set_attribute(keys.INTERRUPTED, True)
    span.set_status(Status(StatusCode.ERROR, error or event.reason))
