"""The place of a task and its attempts in a distributed trace, as plain data."""

from __future__ import annotations

from msgspec import Struct, field


class SpanRef(Struct, gc=False):
    """The identity of one span (W3C Trace Context), to link to it or to continue its trace.

    Ids are lower-case hexadecimal, 32 and 16 digits; empty without tracing.
    """

    trace_id: str = ""
    span_id: str = ""
    trace_flags: int = 0
    tracestate: str = ""

    @property
    def valid(self) -> bool:
        """Whether this names a span."""
        return bool(self.trace_id and self.span_id)


class TaskTrace(Struct, gc=False):
    """The trace data that is stored with a task, so that the trace continues after a restart.

    The engine sets a new, empty reference for each attempt. Only the tracing exporter fills references, in place.
    Without it they stay empty.
    """

    creation: SpanRef = field(default_factory=SpanRef)
    """The `send` span."""
    attempt: SpanRef | None = None
    """The span of the current or latest attempt."""
    previous: SpanRef | None = None
    """The span of the attempt before that: a retry links to it."""
    baggage: str = ""
    """The W3C baggage header that was current at enqueue."""
    cause: SpanRef | None = None
    """The span that the `send` span links to: that of the task that this one retries, or of the call of
    `schedule_once`. It is needed at the creation only, and not stored with the task."""
