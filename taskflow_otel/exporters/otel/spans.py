"""Converts the span references that are stored with a task into OpenTelemetry objects, and back."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import DEFAULT_TRACE_STATE, NonRecordingSpan, Span, SpanContext, TraceFlags, TraceState

from taskflow_otel.model.trace import SpanRef

_baggage_propagator = W3CBaggagePropagator()
SPAN_KEY: str = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
"""The key of the current span in a context. `set_span_in_context` copies a context twice; all that it adds is this."""
_KEPT = 16
"""How many spans that have ended keep their contexts, for the signals of their ends."""
# Not an empty context: for the logging API, an empty one means the current one.
_NOTHING_CURRENT = trace.set_span_in_context(trace.INVALID_SPAN, Context())
_EMPTY = Context()


_latest = datetime.fromtimestamp(0, UTC), 0
"""The moment that was converted last, and its nanoseconds."""


def nanoseconds(moment: datetime) -> int:
    """Unix time in nanoseconds, exact to the microsecond that a datetime holds."""
    global _latest
    # The span and the log record of a transition have the same time, one after the other. To find a datetime among
    # several in a dictionary would take as long as to convert it.
    known, converted = _latest
    if known is not moment:
        converted = round(moment.timestamp() * 1_000_000) * 1_000
        _latest = moment, converted
    return converted


def store(context: SpanContext, ref: SpanRef) -> None:
    """Write the identity of a span into `ref`, in place; an invalid context leaves it empty."""
    # Of the tuple that it is: its properties are calls.
    trace_id, span_id, _, flags, state, valid = context
    if valid:
        # Not `f"{trace_id:032x}"`, which takes four times as long.
        ref.trace_id = trace_id.to_bytes(16).hex()
        ref.span_id = span_id.to_bytes(8).hex()
        ref.trace_flags = int(flags)
        ref.tracestate = "" if state is DEFAULT_TRACE_STATE or not state else state.to_header()


def context_with(span: Span, around: Mapping[str, object] = MappingProxyType({})) -> Context:
    """A context in which this span is current, with what is `around` it."""
    return Context({**around, SPAN_KEY: span})


def restore(ref: SpanRef, *, is_remote: bool) -> SpanContext | None:
    """The span context of `ref`, or `None` if it is empty or damaged."""
    if not ref.valid:
        return None
    try:
        trace_id, span_id = int(ref.trace_id, 16), int(ref.span_id, 16)
    except ValueError:
        return None
    state = _trace_state(ref.tracestate) if ref.tracestate else DEFAULT_TRACE_STATE
    context = SpanContext(trace_id, span_id, is_remote, TraceFlags(ref.trace_flags), state)
    return context if context.is_valid else None


@lru_cache(maxsize=256)
def _trace_state(header: str) -> TraceState:
    return TraceState.from_header([header])


def context_of(ref: SpanRef) -> Context:
    """A context in which the span of `ref` is current; for an empty `ref`, a context without a span."""
    span_context = restore(ref, is_remote=False)
    return _NOTHING_CURRENT if span_context is None else context_with(NonRecordingSpan(span_context))


class SpanContexts:
    """Contexts in which a span of this process is current, of the latest `size` spans that have not ended.

    Each is made once, for all signals of its span. Those of spans that have ended make room for new ones at once:
    memory that was used a moment ago is still in the caches of the processor. Callable from any thread.
    """

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        self._ended: deque[str] = deque()

    def add(self, span_context: SpanContext, ref: SpanRef, context: Context | None = None) -> Context:
        """Write the identity of a new span into `ref`, and return a context in which it is current.

        With `context`, that is the one.
        """
        if context is None:
            context = context_with(NonRecordingSpan(span_context))
        store(span_context, ref)
        if ref.span_id:
            self._contexts[ref.span_id] = context
            if len(self._contexts) > self._size:
                self._contexts.popitem(last=False)
        return context

    def ended(self, ref: SpanRef) -> None:
        """The span of `ref` has ended: its context is needed for the next few signals at most."""
        self._ended.append(ref.span_id)
        if len(self._ended) > _KEPT:
            self._contexts.pop(self._ended.popleft(), None)

    def of(self, ref: SpanRef) -> Context:
        """A context in which the span of `ref` is current; for an empty `ref`, a context without a span."""
        return self._contexts.get(ref.span_id) or context_of(ref)


def baggage_header(context: Context | None = None) -> str:
    """The W3C baggage header of a context (the current one by default); empty without baggage."""
    if not baggage.get_all(context):
        return ""
    carrier: dict[str, str] = {}
    _baggage_propagator.inject(carrier, context)
    return carrier.get("baggage", "")


def context_with_baggage(header: str) -> Context:
    """A context that holds only the baggage of a W3C header."""
    return _baggage_propagator.extract({"baggage": header}, _EMPTY) if header else _EMPTY


class GivenIds:
    """An id generator for the SDK's tracer that returns the ids of a span that was begun elsewhere."""

    def __init__(self, identity: SpanRef) -> None:
        self._identity = identity

    def generate_span_id(self) -> int:
        """The id of that span."""
        return int(self._identity.span_id, 16)

    def generate_trace_id(self) -> int:
        """The id of its trace."""
        return int(self._identity.trace_id, 16)

    def is_trace_id_random(self) -> bool:
        """Whether the trace flags say that the id is random: the SDK made it so."""
        return True
