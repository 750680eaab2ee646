"""Spans that user code makes in a child process: recorded there, repeated here under the same ids.

Both halves use the OpenTelemetry API only; the SDK, with its processors and exporters, stays with the application.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
)
from opentelemetry.util import types

from taskflow_otel.compat.opentelemetry import agnosticcontextmanager, with_ids
from taskflow_otel.exporters.otel import spans
from taskflow_otel.model.plain import text_of
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.runtime.throttled_report import ThrottledReport

Attributes = dict[str, Any]

_PLAIN = (str, bool, int, float, bytes)
_DEEPEST = 8


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as built-in types, which any process can read; other objects become text."""
    if value is None or type(value) in _PLAIN:
        return value
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {text_of(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(item, depth + 1) for item in value]
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else text_of(value)


@dataclass(frozen=True, slots=True)
class Scope:
    """The instrumentation scope of a span."""

    name: str
    version: str | None
    schema_url: str | None
    attributes: Attributes | None


@dataclass(frozen=True, slots=True)
class FinishedSpan:
    """A span as plain data. Times are Unix nanoseconds."""

    scope: Scope
    name: str
    kind: str
    identity: SpanRef
    parent: SpanRef | None
    start_time: int
    end_time: int
    attributes: Attributes
    events: list[tuple[str, Attributes, int]]
    links: list[tuple[SpanRef, Attributes]]
    status: str
    description: str | None


def reference(context: SpanContext) -> SpanRef:
    """The identity of a span as plain data; empty for an invalid one."""
    ref = SpanRef()
    spans.store(context, ref)
    return ref


class RecordedSpan(Span):
    """A span that becomes a `FinishedSpan` when it ends. Its times are the machine\'s, as in an SDK."""

    def __init__(
        self,
        scope: Scope,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start_time: int | None,
        on_end: Callable[[FinishedSpan], None],
    ) -> None:
        self._scope = scope
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._start_time = start_time or time.time_ns()
        self._on_end = on_end
        self._attributes: Attributes = {}
        self._events: list[tuple[str, Attributes, int]] = []
        self._links: list[tuple[SpanRef, Attributes]] = []
        self._status = Status()
        self._ended = False
        self._lock = threading.Lock()

    def end(self, end_time: int | None = None) -> None:
        """End the span and pass it to `on_end`; only the first call counts."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._on_end(
            FinishedSpan(
                scope=self._scope,
                name=self._name,
                kind=self._kind.name,
                identity=reference(self._context),
                parent=None if self._parent is None else reference(self._parent),
                start_time=self._start_time,
                end_time=end_time or time.time_ns(),
                attributes=self._attributes,
                events=self._events,
                links=self._links,
                status=self._status.status_code.name,
                description=self._status.description,
            )
        )

    def get_span_context(self) -> SpanContext:
        """The identity of the span."""
        return self._context

    def set_attributes(self, attributes: Mapping[str, types.AnyValue]) -> None:
        """Set several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: types.AnyValue) -> None:
        """Set one attribute."""
        if not self._ended:
            self._attributes[str(key)] = plain(value)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Add an event; `timestamp` is Unix nanoseconds."""
        if not self._ended:
            self._events.append((str(name), plain(attributes or {}), timestamp or time.time_ns()))

    def add_link(self, context: SpanContext, attributes: types.Attributes = None) -> None:
        """Add a link to another span."""
        if not self._ended:
            self._links.append((reference(context), plain(attributes or {})))

    def update_name(self, name: str) -> None:
        """Give the span another name."""
        self._name = str(name)

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return not self._ended

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status: OK is final and UNSET never overrides (OpenTelemetry specification, Set Status)."""
        if not isinstance(status, Status):
            status = Status(status, description)
        final = self._status.status_code is StatusCode.OK
        if not self._ended and not final and status.status_code is not StatusCode.UNSET:
            self._status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an `exception` event, with the attributes of the semantic conventions."""
        cls = type(exception)
        module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
        described: Attributes = {
            "exception.type": f"{module}{cls.__qualname__}",
            "exception.message": text_of(exception),
            "exception.stacktrace": "".join(traceback.format_exception(cls, exception, exception.__traceback__)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**described, **(attributes or {})}, timestamp)


class RecordingTracer(Tracer):
    """Makes a `RecordedSpan` if the parent is sampled or there is no parent."""

    def __init__(self, scope: Scope, on_end: Callable[[FinishedSpan], None]) -> None:
        self._scope = scope
        self._on_end = on_end

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: types.Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """Start a span; `start_time` is Unix nanoseconds."""
        current = trace.get_current_span(context).get_span_context()
        parent = current if current.is_valid else None
        identity = SpanContext(
            trace_id=random.getrandbits(128) if parent is None else parent.trace_id,  # nosec B311  # ids of spans are public
            span_id=random.getrandbits(64),  # nosec B311  # likewise
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED) if parent is None else parent.trace_flags,
            trace_state=None if parent is None else parent.trace_state,
        )
        if not identity.trace_flags.sampled:
            return NonRecordingSpan(identity)
        span = RecordedSpan(self._scope, name, identity, parent, kind, start_time, self._on_end)
        span.set_attributes(attributes or {})
        for link in links or ():
            span.add_link(link.context, link.attributes)
        return span

    @agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: types.Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[Span]:
        """Start a span that is the current one inside the `with` block."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(
            span,
            end_on_exit=end_on_exit,
            record_exception=record_exception,
            set_status_on_exception=set_status_on_exception,
        ):
            yield span


class RecordingTracerProvider(TracerProvider):
    """The tracer provider of a process without an SDK: every span goes to `on_end` when it has ended."""

    def __init__(self, on_end: Callable[[FinishedSpan], None]) -> None:
        self._on_end = on_end

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: types.Attributes = None,
    ) -> Tracer:
        """A tracer of this instrumentation scope."""
        scope = Scope(
            instrumenting_module_name,
            instrumenting_library_version,
            schema_url,
            None if attributes is None else plain(attributes),
        )
        return RecordingTracer(scope, self._on_end)


class SpanForwarder:
    """Passes the spans of child processes to the application's tracer provider (`None`: the global one).

    The span goes through that provider's sampler, processors and exporters like one made here. It keeps the ids that
    it was recorded with, because logs and downstream services hold them. Where the provider's tracers have no
    replaceable `id_generator` (the SDK's have one), the span gets new ids.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._provider = tracer_provider
        self._failures = ThrottledReport()

    def forward(self, finished: FinishedSpan) -> None:
        """Pass one span on. An exception of the provider or a processor is logged, once a minute, and not raised."""
        try:
            self._repeat(finished)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._failures.add("tracing", "could not export a span of a child process", exc)

    def _repeat(self, finished: FinishedSpan) -> None:
        provider = self._provider or trace.get_tracer_provider()
        scope = finished.scope
        own = provider.get_tracer(scope.name, scope.version, scope.schema_url, scope.attributes)
        tracer = with_ids(own, spans.GivenIds(finished.identity))
        parent = None if finished.parent is None else spans.restore(finished.parent, is_remote=False)
        above = trace.INVALID_SPAN if parent is None else NonRecordingSpan(parent)
        context = trace.set_span_in_context(above)
        links = [(spans.restore(ref, is_remote=True), attributes) for ref, attributes in finished.links]
        span = tracer.start_span(
            finished.name,
            context,
            SpanKind[finished.kind],
            finished.attributes,
            [Link(target, attributes) for target, attributes in links if target is not None],
            finished.start_time,
        )
        for name, attributes, timestamp in finished.events:
            span.add_event(name, attributes, timestamp)
        if finished.status != StatusCode.UNSET.name:
            span.set_status(Status(StatusCode[finished.status], finished.description))
        span.end(finished.end_time)
