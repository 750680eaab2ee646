"""Keeps the spans inside each attempt, so that the page of a task shows its trace without a tracing backend."""

from __future__ import annotations

import heapq
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Protocol

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode

from taskflow_otel.bus import Exporter
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.kept_attributes import KEPT, kept_attributes
from taskflow_otel.exporters.otel.providers import NEVER
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.spans import MAX_NAME, MAX_SPANS, AttemptSpans, KeptSpan

MOST_AT_ONCE = 20_000
"""Spans kept of all attempts that run; further ones are dropped and counted."""
_MOST_OPEN = 50
"""Spans of an attempt that are kept although they have not ended when it does."""
_REQUESTS = 1_000
"""Requests, and tasks with their requests, that are known at a time."""
_SERVER = SpanKind.SERVER


class LiveSpan(Protocol):
    """What the SDK's spans tell; that of the API alone tells nothing."""

    @property
    def name(self) -> str: ...
    @property
    def context(self) -> SpanContext | None: ...
    @property
    def parent(self) -> SpanContext | None: ...
    @property
    def kind(self) -> SpanKind: ...
    @property
    def start_time(self) -> int | None: ...
    @property
    def end_time(self) -> int | None: ...
    @property
    def attributes(self) -> Any: ...
    @property
    def status(self) -> Any: ...


class _Attempt:
    """The spans of one attempt, while it runs."""

    __slots__ = ("dropped", "ended", "identity", "open", "over")

    def __init__(self, identity: SpanContext) -> None:
        self.identity = identity
        self.open: dict[int, LiveSpan] = {}
        self.ended: list[tuple[bool, int, int, KeptSpan]] = []
        """A heap: the least interesting one is the first."""
        self.dropped = 0
        self.over = False


class SpanKeeper(Exporter):
    """Gives the spans of each attempt to the ledger when it ends.

    Spans come from a processor in the application's tracer provider (`attach`). They belong to the attempt whose
    context they were started in; the context of an attempt holds it under `key`. Of one attempt, at most 200 are kept:
    those that failed and the longest ones. `attributes`: names of further attributes to keep (`kept_attributes`).

    `started` and `ended` are called on any thread.
    """

    name = "kept_spans"

    def __init__(self, attributes: Collection[str] = ()) -> None:
        self.key: str = otel_context.create_key("taskflow.kept_spans")
        self._wanted = KEPT | frozenset(attributes)
        self._attached = False
        self._closed = False
        self._dropped = 0
        self._renew()
        if hasattr(os, "register_at_fork"):
            # Another thread may hold the lock during a fork, and no attempt continues in the child.
            os.register_at_fork(after_in_child=_if_alive(weakref.WeakMethod(self._renew)))

    def _renew(self) -> None:
        # Reentrant: the garbage collector may end a span anywhere.
        self._lock = threading.RLock()
        self._attempts: dict[str, _Attempt] = {}
        self._by_span: dict[int, _Attempt] = {}
        """The attempt of each span that has not ended, those of the attempts themselves included."""
        self._servers: OrderedDict[int, LiveSpan] = OrderedDict()
        """The requests that are answered now, by trace id."""
        self._requests: OrderedDict[str, tuple[LiveSpan, ...]] = OrderedDict()
        """By task: the request that added it, the span that was current then, and its `send` span."""
        self._held = 0

    def attach(self, provider: object) -> bool:
        """Get the spans of a provider from now on; return `False` if it does not pass its spans to anyone."""
        if self._attached:
            return True
        add = getattr(provider, "add_span_processor", None)
        if add is None:
            return False
        try:
            from taskflow_otel.exporters.otel.span_processor import KeepingProcessor
        except ImportError:
            # Some vendor's provider, without the SDK.
            return False
        add(KeepingProcessor(self))
        self._attached = True
        self.wake()
        return True

    def idle_until(self, now: datetime) -> datetime | None:
        """Idle until it is attached."""
        return None if self._attached else NEVER

    def start(self) -> None:
        """Keep spans; again after a close."""
        self._closed = False

    def close(self) -> None:
        """Keep nothing more: a processor stays in its provider."""
        self._closed = True
        self._renew()

    def dropped(self) -> int:
        """How many spans were not kept, because an attempt or all together had too many."""
        return self._dropped

    def added(self, task_id: str, context: Context, send: Span) -> None:
        """A task was added in this context."""
        current: Any = context.get(spans.SPAN_KEY)
        # A span of another process, or one that is not recorded, tells nothing.
        if current is None or not (current.is_recording() and send.is_recording()):
            return
        server = self._servers.get(current.context.trace_id)
        told: Any = send
        around: tuple[LiveSpan, ...] = (current, told)
        if server is not None and server is not current:
            around = (server, *around)
        with self._lock:
            self._requests[task_id] = around
            if len(self._requests) > _REQUESTS:
                self._requests.popitem(last=False)

    def begin(self, task_id: str, identity: SpanContext) -> object:
        """An attempt begins, with the span of this identity; return what its context holds under `key`."""
        if (earlier := self._attempts.get(task_id)) is not None:
            self._let_go(earlier)
        attempt = self._attempts[task_id] = self._by_span[identity.span_id] = _Attempt(identity)
        return attempt

    def on_ending(self, record: TaskRecord) -> AttemptSpans | None:
        """Everything kept of the attempt that ends now; `None` if there is nothing."""
        attempt = self._attempts.pop(record.task_id, None)
        if attempt is None:
            return None
        request = self._requests.pop(record.task_id, None) if self._requests else None
        if not attempt.open and not attempt.ended and request is None:
            self._let_go(attempt)
            return None
        with self._lock:
            opened = list(attempt.open.values())[:_MOST_OPEN]
            ended = heapq.nlargest(MAX_SPANS - len(opened), attempt.ended)
            beyond = len(attempt.open) + len(attempt.ended) - len(opened) - len(ended)
            attempt.dropped += beyond
            self._dropped += beyond
            self._let_go(attempt)
        inside = [entry[-1] for entry in ended] + [self._kept(span, None) for span in opened]
        around = [self._kept(span, span.end_time) for span in request or ()]
        identity = attempt.identity
        return AttemptSpans(
            f"{identity.trace_id:032x}", f"{identity.span_id:016x}", tuple(around), tuple(inside), attempt.dropped
        )

    def forget(self, task_id: str) -> None:
        """The task has ended, or is no longer this process's."""
        self._requests.pop(task_id, None)
        attempt = self._attempts.pop(task_id, None)
        if attempt is not None:
            self._let_go(attempt)

    def _let_go(self, attempt: _Attempt) -> None:
        with self._lock:
            attempt.over = True
            self._by_span.pop(attempt.identity.span_id, None)
            for span_id in attempt.open:
                self._by_span.pop(span_id, None)
            self._held -= len(attempt.open) + len(attempt.ended)
            # A long-lived asyncio task of the function may hold its context, and with it this.
            attempt.open, attempt.ended = {}, []

    def started(self, span: LiveSpan, context: Context | None) -> None:
        """A span was started, with the parent in `context` (`None`: the current one)."""
        if self._closed or span.context is None:
            return
        attempt = (otel_context.get_current() if context is None else context).get(self.key)
        if not isinstance(attempt, _Attempt):
            # Some libraries carry only the parent from one thread to the next.
            parent = span.parent
            attempt = None if parent is None else self._by_span.get(parent.span_id)
        if attempt is not None:
            self._take(attempt, span, span.context.span_id)
        elif span.kind is _SERVER:
            with self._lock:
                self._servers[span.context.trace_id] = span
                if len(self._servers) > _REQUESTS:
                    self._servers.popitem(last=False)

    def _take(self, attempt: _Attempt, span: LiveSpan, span_id: int) -> None:
        with self._lock:
            if attempt.over:
                return
            if self._held >= MOST_AT_ONCE or len(attempt.open) >= 5 * MAX_SPANS:
                attempt.dropped += 1
                self._dropped += 1
                return
            self._held += 1
            attempt.open[span_id] = span
            self._by_span[span_id] = attempt

    def ended(self, span: LiveSpan) -> None:
        """A span has ended."""
        if span.context is None:
            return
        span_id = span.context.span_id
        attempt = self._by_span.get(span_id)
        if attempt is None:
            if span.kind is _SERVER and self._servers:
                self._servers.pop(span.context.trace_id, None)
            return
        with self._lock:
            if attempt.open.pop(span_id, None) is None:
                return
            self._by_span.pop(span_id, None)
            start, end = span.start_time or 0, span.end_time or 0
            failed = span.status.status_code is StatusCode.ERROR
            full = len(attempt.ended) >= MAX_SPANS
            if full:
                self._held -= 1
                self._dropped += 1
                attempt.dropped += 1
                if (failed, end - start) <= attempt.ended[0][:2]:
                    return
            # The number makes each entry unique: spans are not compared.
            entry = (failed, end - start, span_id, self._kept(span, end))
            if full:
                heapq.heapreplace(attempt.ended, entry)
            else:
                heapq.heappush(attempt.ended, entry)

    def _kept(self, span: LiveSpan, end: int | None) -> KeptSpan:
        context, parent, status = span.context, span.parent, span.status
        failed = status.status_code is StatusCode.ERROR
        return KeptSpan(
            "" if context is None else f"{context.span_id:016x}",
            "" if parent is None else f"{parent.span_id:016x}",
            plain_text(span.name, MAX_NAME),
            span.kind.name.lower(),
            (span.start_time or 0) // 1_000,
            None if end is None else end // 1_000,
            failed,
            plain_text(status.description, MAX_NAME) if failed and status.description else None,
            kept_attributes(span.attributes, self._wanted),
        )


def _if_alive(renew: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    def call() -> None:
        if (alive := renew()) is not None:
            alive()

    return call
