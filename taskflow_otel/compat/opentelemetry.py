"""OpenTelemetry: the placeholders of its API, the decorator of its tracers, the ids of its SDK, its instrumentation."""

# ruff: noqa: SLF001  # the names of a span: a lookup by `attrgetter` takes three times as long

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value
from opentelemetry.trace import Tracer

# The API decorates the abstract method `start_as_current_span` with it, so that `@tracer.start_as_current_span()`
# works on coroutines too.
from opentelemetry.util._decorator import _agnosticcontextmanager as agnosticcontextmanager

__all__ = [
    "IdGenerator",
    "agnosticcontextmanager",
    "exports_logging",
    "is_exporting",
    "is_instrumented",
    "is_unset_global",
    "metric_preferences",
    "shut_down",
    "span_rows",
    "with_ids",
]

T = TypeVar("T", bound=Tracer)

# The API has no function that tells whether a provider was set, and two of its three placeholders are private.
_STAND_INS = frozenset({"ProxyTracerProvider", "_ProxyMeterProvider", "ProxyLoggerProvider"})


class IdGenerator(Protocol):
    """Makes the ids of spans, for a tracer of the SDK."""

    def generate_span_id(self) -> int:
        """The id of a span."""

    def generate_trace_id(self) -> int:
        """The id of its trace, if the span starts one."""

    def is_trace_id_random(self) -> bool:
        """Whether the trace flags say that the id is random."""


def is_unset_global(provider: object) -> bool:
    """Whether this is the placeholder for a global provider that was not set yet."""
    kind = type(provider)
    return kind.__name__ in _STAND_INS and kind.__module__.startswith("opentelemetry.")


def with_ids(tracer: T, ids: IdGenerator) -> T:
    """A tracer like this one whose spans get their ids from `ids`; the same tracer if it does not support that.

    The SDK gives everyone who asks for a scope the same tracer, so this is a copy.
    """
    if not hasattr(tracer, "id_generator"):
        return tracer
    alike = copy.copy(tracer)
    alike.id_generator = ids
    return alike


_preferences: Callable[[object], tuple[Any, Any]] = attrgetter("_preferred_temporality", "_preferred_aggregation")


def metric_preferences(exporter: object) -> tuple[Any, Any]:
    """Temporality and aggregation that an exporter of metrics prefers: a reader asks the exporter for them."""
    return _preferences(exporter)


_batches: Callable[[object], Any] = attrgetter("_batch_processor")


def shut_down(processor: object, seconds: float) -> None:
    """Shut down a batch processor, which exports what it has queued for up to `seconds`.

    Its own method has no such limit: it waits 30 s for an attempt that hangs.
    """
    _batches(processor).shutdown(int(seconds * 1000))


def span_rows(spans: Sequence[Any]) -> list[list[Any]]:
    """What spans of the SDK say: end, id, id of the parent, name, kind, start, status, its description, attributes.

    A span that has ended says the same for ever; the attributes of the others may change. Each property of a span is a
    call, and a walk over the attributes that it shows takes several for each of them.
    """
    try:
        # The end is read first: what is read after it is final. Of the tuple that an identity is: properties are calls.
        return [
            [
                span._end_time,
                span._context[1],
                None if (parent := span._parent) is None else parent[1],
                span._name,
                span._kind,
                span._start_time,
                span._status._status_code,
                span._status._description,
                span._attributes._dict,
            ]
            for span in spans
        ]
    except AttributeError:
        # Some vendor's, or a later version's.
        return [
            [
                span.end_time,
                span.get_span_context().span_id,
                None if span.parent is None else span.parent.span_id,
                span.name,
                span.kind,
                span.start_time,
                span.status.status_code,
                span.status.description,
                dict(span.attributes or {}),
            ]
            for span in spans
        ]


def is_instrumented(app: object) -> bool:
    """Whether a FastAPI application makes spans for its requests, or was told not to.

    A version of FastAPI with its own telemetry does so through the global provider.
    """
    return find_spec("fastapi.telemetry") is not None or getattr(app, "_is_instrumented_by_opentelemetry", False)


def exports_logging(handler: object) -> bool:
    """Whether a handler of `logging` exports what it gets: that of the SDK, or that of the instrumentation."""
    return any(
        kind.__name__ == "LoggingHandler" and kind.__module__.startswith("opentelemetry.")
        for kind in type(handler).__mro__
    )


def is_exporting() -> bool:
    """Whether the SDK is sending telemetry in this context: it forbids that what is done for it makes more."""
    return bool(get_value(_SUPPRESS_INSTRUMENTATION_KEY))
