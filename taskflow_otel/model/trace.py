"""Where a task and its attempts stand in a distributed trace, as plain data."""

from __future__ import annotations

from msgspec import Struct, field


class SpanRef(Struct, gc=False):
    """The identity of one span (W3C Trace Context): what is needed to link to it or to continue from it.

    Ids are lower-case hexadecimal, 32 and 16 digits; empty where nothing traces.
    """

    trace_id: str = ""
    span_id: str = ""
    trace_flags: int = 0
    tracestate: str = ""

    @property
    def valid(self) -> bool:
        """Whether this names a span at all."""
        return bool(self.trace_id and self.span_id)


class TaskTrace(Struct, gc=False):
    """What of the trace is stored with a task, so that a restart continues the story.

    The engine puts a new, empty reference in place for each attempt; the tracing exporter is the only one
    who fills references in, in place. Without it they stay empty.
    """

    creation: SpanRef = field(default_factory=SpanRef)
    """The `send` span."""
    attempt: SpanRef | None = None
    """The span of the current, or else the latest, attempt."""
    previous: SpanRef | None = None
    """The span of the attempt before that: a retry links to it."""
    baggage: str = ""
    """The W3C baggage header that was current at enqueue."""
