"""The events of the observer bus: one for each applied transition, one for each log entry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace


class LifecycleEvent(Struct, frozen=True, eq=False, gc=False):
    """One applied transition of one task. Times are aware, in UTC; durations are seconds."""

    task_id: str
    func_name: str
    transition: Transition
    previous: TaskStatus | None
    status: TaskStatus
    timestamp: datetime
    attempt: int
    """Zero-based number of the event's attempt."""
    retries_used: int
    created_at: datetime
    start_time: datetime | None
    end_time: datetime | None
    """For an attempt that died with its process: the last heartbeat of that process."""
    duration: float | None
    """Run time of the attempt, once it has ended."""
    queue_wait: float | None
    """Seconds from ready to started; a deliberate delay is not part of it. Known from `STARTED` on."""
    run_at: datetime | None
    error: str | None
    error_type: str | None
    stacktrace: str | None
    reason: str | None
    tags: Mapping[str, str]
    queue: str
    executor: str
    priority: int
    source: str
    instance: str
    trace: TaskTrace
    """Shared with the task. The tracing exporter, which is first on the bus, sets its references."""
    span: SpanRef
    """The span that this event belongs to: the attempt's, or `send` before the first attempt."""
    exception: BaseException | None = None
    """The exception of the attempt, in the process that ran it. Only exporters get it, because its traceback keeps the
    frames of the task alive. It does not count for the equality of events."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LifecycleEvent):
            return NotImplemented
        return _compared(self) == _compared(other)

    __hash__ = None  # type: ignore[assignment]  # its trace is filled in

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
    tags: Mapping[str, str]
    extra: Mapping[str, Any]
    queue: str = "default"
    trace_id: str | None = None
    span_id: str | None = None
    trace_flags: int = 0
    seq: int = 0
    """Position among the log entries of this task, from 0."""


def lifecycle_event(
    record: TaskRecord,
    transition: Transition,
    previous: TaskStatus | None,
    timestamp: datetime,
    *,
    queue_wait: float | None = None,
    exception: BaseException | None = None,
) -> LifecycleEvent:
    """The event of a transition that has just been applied to a record."""
    trace = record.trace
    # By position, which costs a twentieth of keywords; a test checks the order.
    return LifecycleEvent(
        record.task_id,
        record.func_name,
        transition,
        previous,
        record.status,
        timestamp,
        record.attempt,
        record.retries_used,
        record.created_at,
        record.start_time,
        record.end_time,
        record.duration,
        queue_wait,
        record.run_at,
        record.error,
        record.error_type,
        record.stacktrace,
        record.reason,
        record.tags,
        record.queue,
        record.executor,
        record.priority,
        record.source,
        record.instance,
        trace,
        trace.attempt or trace.creation,
        exception,
    )


def without_exception(event: LifecycleEvent) -> LifecycleEvent:
    """The event without its exception, whose traceback would keep the frames of the task alive."""
    return event if event.exception is None else replace(event, exception=None)
