"""What the observer bus carries: one event for each applied transition, one for each log entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace

LOG_LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
"""The levels of `task_log`, by their numbers in the standard library's `logging`."""


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One applied transition of one task. Times are aware, in UTC; durations are seconds."""

    task_id: str
    func_name: str
    transition: Transition
    previous: TaskStatus | None
    status: TaskStatus
    timestamp: datetime
    attempt: int
    """Zero-based number of the attempt that this event is about."""
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
    """Shared with the task. The tracing exporter, first on the bus, fills its references in."""
    span: SpanRef
    """The span that this event belongs to: the attempt's, or `send` before the first attempt."""
    exception: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def trace_id(self) -> str | None:
        """Trace id, 32 hexadecimal digits; `None` where nothing traces."""
        return self.span.trace_id or None

    @property
    def span_id(self) -> str | None:
        """Span id, 16 hexadecimal digits; `None` where nothing traces."""
        return self.span.span_id or None


@dataclass(frozen=True, slots=True)
class LogEvent:
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
