"""The events of the observer bus: one for each applied transition, one for each log entry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any, ClassVar

from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

from taskflow_otel.model.objective import result_of
from taskflow_otel.model.record import DEFAULT_PRIORITY, DEFAULT_QUEUE, TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.model.vocabulary import ExecutorKind, Source

_LEFT_OUT: Any = None
# A module-level name: until Python 3.12, the lookup of an enum member takes as long as a call.
_RUNNING = TaskStatus.RUNNING
_USUAL = {
    TaskStatus.PENDING: Transition.ENQUEUED,
    TaskStatus.RUNNING: Transition.STARTED,
    TaskStatus.SUCCESS: Transition.SUCCEEDED,
    TaskStatus.FAILED: Transition.FAILED,
    TaskStatus.CANCELLED: Transition.CANCELLED,
    TaskStatus.INTERRUPTED: Transition.INTERRUPTED,
    TaskStatus.REJECTED: Transition.REJECTED,
}


class LifecycleEvent(Struct, frozen=True, eq=False, gc=False):
    """One applied transition of one task. Times are aware, in UTC; durations are seconds."""

    task_id: str
    func_name: str
    status: TaskStatus
    timestamp: datetime
    attempt: int
    """Zero-based number of the event's attempt."""
    retries_used: int
    duration: float | None = None
    """Run time of the attempt, once it has ended."""
    error: str | None = None
    stacktrace: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    transition: Transition = _LEFT_OUT
    """An event that is made by hand, in a test of an observer, may leave it out: the usual one of its status."""
    previous: TaskStatus | None = None
    created_at: datetime = _LEFT_OUT
    """By hand it may be left out: the time of the event."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    """For an attempt that died with its process: the last heartbeat of that process."""
    queue_wait: float | None = None
    """Seconds from ready to started; a deliberate delay is not part of it. Known from `STARTED` on."""
    run_at: datetime | None = None
    error_type: str | None = None
    reason: str | None = None
    queue: str = DEFAULT_QUEUE
    executor: str = ExecutorKind.ASYNC.value
    priority: int = DEFAULT_PRIORITY
    source: str = Source.MANUAL.value
    instance: str = ""
    trace: TaskTrace = field(default_factory=TaskTrace)
    """Shared with the task. The tracing exporter, which is first on the bus, sets its references."""
    span: SpanRef = field(default_factory=SpanRef)
    """The span that this event belongs to: the attempt's, or `send` before the first attempt."""
    objective: str | None = None
    """One of `ObjectiveResult` if this transition decides how the task counts for the objective of its type."""
    exception: BaseException | None = None
    """The exception of the attempt, in the process that ran it. Only exporters get it, because its traceback keeps the
    frames of the task alive. It does not count for the equality of events."""

    def __post_init__(self) -> None:
        if self.transition is _LEFT_OUT:
            force_setattr(self, "transition", _USUAL[self.status])
        if self.created_at is _LEFT_OUT:
            force_setattr(self, "created_at", self.timestamp)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LifecycleEvent):
            return NotImplemented
        return _compared(self) == _compared(other)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # its trace is filled in

    @property
    def ends_attempt(self) -> bool:
        """Whether an attempt was running, and does not run any more."""
        return self.previous is _RUNNING and self.status is not _RUNNING

    @property
    def trace_id(self) -> str | None:
        """Trace id, 32 hexadecimal digits; `None` without tracing."""
        return self.span.trace_id or None

    @property
    def span_id(self) -> str | None:
        """Span id, 16 hexadecimal digits; `None` without tracing."""
        return self.span.span_id or None


_compared = attrgetter(*(name for name in LifecycleEvent.__struct_fields__ if name != "exception"))


class LogEvent(Struct, frozen=True):
    """One entry written by `task_log` (or captured from `logging`) inside a task."""

    task_id: str
    func_name: str
    message: str
    level: str
    timestamp: datetime
    attempt: int
    tags: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    queue: str = DEFAULT_QUEUE
    trace_id: str | None = None
    span_id: str | None = None
    trace_flags: int = 0
    seq: int = 0
    """Position among the log entries of this task, from 0."""
    exported: bool = False
    """OpenTelemetry gets this line from a handler of `logging`, so that it is not exported a second time."""


def lifecycle_event(
    record: TaskRecord,
    transition: Transition,
    previous: TaskStatus | None,
    timestamp: datetime,
    queue_wait: float | None = None,
    exception: BaseException | None = None,
) -> LifecycleEvent:
    """The event of a transition that has just been applied to a record."""
    trace = record.trace
    timeline = record.timeline
    objective = None
    if timeline and timeline[0].due_at is not None:
        objective = result_of(timeline, len(timeline) - 1)
    # By position, which costs a twentieth of keywords; a test checks the order.
    return LifecycleEvent(
        record.task_id,
        record.func_name,
        record.status,
        timestamp,
        record.attempt,
        record.retries_used,
        record.duration,
        record.error,
        record.stacktrace,
        record.tags,
        transition,
        previous,
        record.created_at,
        record.start_time,
        record.end_time,
        queue_wait,
        record.run_at,
        record.error_type,
        record.reason,
        record.queue,
        record.executor,
        record.priority,
        record.source,
        record.instance,
        trace,
        trace.attempt or trace.creation,
        objective,
        exception,
    )


def without_exception(event: LifecycleEvent) -> LifecycleEvent:
    """The event without its exception, whose traceback would keep the frames of the task alive."""
    return event if event.exception is None else replace(event, exception=None)
