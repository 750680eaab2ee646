"""Keeps the spans inside each attempt, so that the page of a task shows its trace without a tracing backend."""

from __future__ import annotations

import heapq
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct, field
from opentelemetry import context as otel_context
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode

from taskflow_otel.bus import Exporter
from taskflow_otel.compat.opentelemetry import span_rows
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.kept_attributes import KEPT, kept_attributes
from taskflow_otel.exporters.otel.providers import NEVER
from taskflow_otel.model.plain import plain_text, text_of
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.spans import MAX_NAME, MAX_SPANS, SpanRow, dump_rows
from taskflow_otel.model.trace import SpanRef

MOST_AT_ONCE = 20_000
"""Spans kept of all attempts that run; further ones are dropped and counted."""
_MOST_OPEN = 50
"""Spans of an attempt that are kept although they have not ended when it does."""
_MOST_LIVE = 5 * MAX_SPANS
"""Spans of an attempt that may be open at once."""
_SOON = 8
"""Spans that an attempt starts before those of them that have ended are looked at."""
_SELDOM = 64
"""How many spans an attempt drops, because it has too many open ones, before these are looked at again."""
_REQUESTS = 1_000
"""Tasks with their requests that are known at a time."""
# Module-level names: until Python 3.12, the lookup of an enum member takes as long as a call.
_SERVER, _INTERNAL, _CLIENT, _ERROR = SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT, StatusCode.ERROR
_NUMBERS = {kind: kind.value for kind in SpanKind}
_CLIENT_NUMBER, _ERROR_NUMBER = _CLIENT.value, _ERROR.value
_FAILED = (_ERROR, _ERROR_NUMBER)
"""The status in a row before and after `_cut`."""


class LiveSpan(Protocol):
    """What the SDK's spans tell when they start; that of the API alone tells nothing. More: `span_rows`."""

    @property
    def parent(self) -> SpanContext | None: ...
    @property
    def kind(self) -> SpanKind: ...
    def get_span_context(self) -> SpanContext: ...
    def is_recording(self) -> bool: ...


_Entry = tuple[bool, int, int, SpanRow]
"""Whether a span failed, how long it was, its id, which makes the entry unique, and the span."""


class _Attempt(Struct, eq=False):
    """The spans of one attempt, while it runs."""

    identity: SpanContext
    live: list[LiveSpan] = field(default_factory=list)
    """Those that have not ended, and a few that have."""
    look_at: int = _SOON
    """How many of these there are before they are looked at."""
    ended: list[SpanRow] = field(default_factory=list)
    heap: list[_Entry] = field(default_factory=list)
    """These in place of `ended`, once there are too many. The least interesting one is the first."""
    dropped: int = 0
    over: bool = False

    def is_open(self, span_id: int) -> bool:
        """Whether this is one of its spans, or its own, and has not ended."""
        return span_id == self.identity.span_id or any(
            span.get_span_context().span_id == span_id and span.is_recording() for span in list(self.live)
        )


class SpanKeeper(Exporter):
    """Gives the spans of each attempt to the ledger when it ends.

    Spans come from a processor in the application's tracer provider (`attach`). They belong to the attempt whose
    context they were started in; the context of an attempt holds it under `key`. Of one attempt, at most 200 are kept:
    those that failed and the longest ones. `attributes`: names of further attributes to keep (`kept_attributes`).

    It is told when a span starts, and sees later whether it has ended: a second call for each span would take longer
    than all that is done here. `started` is called on any thread.
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
        """The attempt of each of its live spans and of its own."""
        self._servers: weakref.WeakValueDictionary[int, LiveSpan] = weakref.WeakValueDictionary()
        """The requests that are answered now, by trace id."""
        self._requests: OrderedDict[str, tuple[LiveSpan, ...]] = OrderedDict()
        """By task: the request that added it, the span that was current then, and its `send` span."""
        self._kept = 0
        """How many spans are kept of all attempts that run, beside the live ones."""

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
        for attempt in self._attempts.values():
            attempt.over = True
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
        server = self._servers.get(current.get_span_context().trace_id)
        told: Any = send
        around: tuple[LiveSpan, ...] = (current, told)
        if server is not None and server is not current and server.is_recording():
            around = (server, *around)
        with self._lock:
            self._requests[task_id] = around
            if len(self._requests) > _REQUESTS:
                self._requests.popitem(last=False)

    def begin(self, task_id: str, identity: SpanContext) -> object:
        """An attempt begins, with the span of this identity; return what its context holds under `key`."""
        if (earlier := self._attempts.get(task_id)) is not None:
            self._let_go(earlier)
        attempt = self._attempts[task_id] = self._by_span[identity[1]] = _Attempt(identity)
        return attempt

    def on_ending(self, record: TaskRecord) -> str | None:
        """Everything kept of the attempt that ends now; `None` if there is nothing."""
        attempt = self._attempts.pop(record.task_id, None)
        if attempt is None:
            return None
        request = self._requests.pop(record.task_id, None) if self._requests else None
        if not attempt.live and not attempt.ended and not attempt.heap and request is None:
            # `_let_go` without its lock, for most attempts: there is nothing to release, unless a span starts at this
            # moment, on another thread.
            attempt.over = True
            self._by_span.pop(attempt.identity[1], None)
            if attempt.live:
                self._let_go(attempt)
            return None
        own = _own(record, attempt.identity)
        with self._lock:
            self._look_at(attempt)
            inside, opened = attempt.ended, attempt.live
            if attempt.heap or opened:
                beyond = len(opened)
                opened = opened[:_MOST_OPEN]
                beyond -= len(opened)
                number, room = len(inside) + len(attempt.heap), MAX_SPANS - len(opened)
                if number > room:
                    inside = [entry[-1] for entry in heapq.nlargest(room, attempt.heap or map(_entry, inside))]
                    beyond += number - room
                elif attempt.heap:
                    inside = [entry[-1] for entry in attempt.heap]
                attempt.dropped += beyond
                self._dropped += beyond
            self._release(attempt)
        if opened:
            inside += self._cut(_of_now(opened))
        around = [] if request is None else self._cut(_of_now(request))
        return dump_rows(own.trace_id, own.span_id, around, inside, attempt.dropped)

    def forget(self, task_id: str) -> None:
        """The task has ended, or is no longer this process's."""
        if self._requests:
            self._requests.pop(task_id, None)
        attempt = self._attempts.pop(task_id, None)
        if attempt is not None:
            self._let_go(attempt)

    def _let_go(self, attempt: _Attempt) -> None:
        with self._lock:
            self._release(attempt)

    def _release(self, attempt: _Attempt) -> None:
        # First this: see `started`.
        attempt.over = True
        forget = self._by_span.pop
        forget(attempt.identity[1], None)
        if attempt.live:
            for span in list(attempt.live):
                forget(span.get_span_context().span_id, None)
        self._kept -= len(attempt.ended) + len(attempt.heap)
        # A long-lived asyncio task of the function may hold its context, and with it this.
        attempt.live, attempt.ended, attempt.heap = [], [], []

    def started(self, span: LiveSpan, context: Context | None) -> None:
        """A span was started, with the parent in `context` (`None`: the current one).

        This runs in the code that makes spans. So it waits for no lock while there are few of them.
        """
        attempt: Any = (get_current() if context is None else context).get(self.key)
        if attempt is None:
            # Some libraries carry only the parent from one thread to the next.
            parent = span.parent
            if parent is not None:
                attempt = self._by_span.get(parent[1])
                if attempt is not None and not attempt.is_open(parent[1]):
                    attempt = None
            if attempt is None:
                if span.kind is _SERVER and not self._closed:
                    self._servers[span.get_span_context().trace_id] = span
                return
        if attempt.over:
            return
        live, by_span = attempt.live, self._by_span
        if (len(live) >= attempt.look_at and not self._has_room(attempt)) or (
            len(by_span) - len(self._attempts) + self._kept >= MOST_AT_ONCE
        ):
            with self._lock:
                attempt.dropped += 1
                self._dropped += 1
            return
        live.append(span)
        # Of the tuple that it is: its properties are calls.
        span_id = span.get_span_context()[1]
        by_span[span_id] = attempt
        if attempt.over:
            # On another thread since.
            by_span.pop(span_id, None)

    def _has_room(self, attempt: _Attempt) -> bool:
        """Look at the spans of an attempt that has many; return whether it may have more."""
        if len(attempt.live) >= _MOST_LIVE and attempt.dropped % _SELDOM:
            return False
        with self._lock:
            self._look_at(attempt)
            number = len(attempt.live)
            attempt.look_at = min(number + number // 2 + _SOON, _MOST_LIVE)
        return number < _MOST_LIVE

    def _look_at(self, attempt: _Attempt) -> None:
        """Keep what there is to keep of the spans that have ended.

        Not the spans: they may hold stack traces, and statements that are not to be kept.
        """
        seen = attempt.live[:]
        rows: list[SpanRow] = []
        forget = self._by_span.pop
        for row in (found := span_rows(seen)):
            if row[0] is not None:
                rows.append(row)
                forget(row[1], None)
        # Others may be added at the end at this moment.
        if len(rows) == len(seen):
            del attempt.live[: len(seen)]
        else:
            attempt.live[: len(seen)] = [span for span, row in zip(seen, found, strict=True) if row[0] is None]
        if not attempt.heap and len(attempt.ended) + len(rows) <= MAX_SPANS:
            attempt.ended += self._cut(rows)
            self._kept += len(rows)
            return
        if not attempt.heap:
            attempt.heap = [_entry(row) for row in attempt.ended]
            heapq.heapify(attempt.heap)
            attempt.ended = []
        for row in rows:
            entry = _entry(row)
            if len(attempt.heap) < MAX_SPANS:
                heapq.heappush(attempt.heap, entry)
                self._kept += 1
            else:
                attempt.dropped += 1
                self._dropped += 1
                if entry < attempt.heap[0]:
                    continue
                heapq.heapreplace(attempt.heap, entry)
            self._cut([row])

    def _cut(self, rows: list[SpanRow]) -> list[SpanRow]:
        """Leave of these rows what is kept, and return them."""
        wanted = self._wanted
        for row in rows:
            # The SDK takes anything for a name and a kind.
            name = row[3]
            if type(name) is not str or len(name) > MAX_NAME or not name.isascii() or "\x00" in name:
                row[3] = text_of(name, MAX_NAME)
            # Numbers: the encoder takes a call for a member.
            kind = row[4]
            row[4] = 0 if kind is _INTERNAL else _CLIENT_NUMBER if kind is _CLIENT else _NUMBERS.get(kind, 0)
            row[6] = _ERROR_NUMBER if row[6] is _ERROR else 0
            if row[7] is not None:
                row[7] = plain_text(row[7], MAX_NAME)
            row[8] = kept_attributes(row[8], wanted)
        return rows


def _own(record: TaskRecord, identity: SpanContext) -> SpanRef:
    """The identity of the span of an attempt in words, which the record has if the exporter of spans is on the bus."""
    ref = record.trace.attempt
    if ref is None or not ref.span_id:
        ref = SpanRef()
        spans.store(identity, ref)
    return ref


def _of_now(spans: Sequence[LiveSpan]) -> list[SpanRow]:
    """Rows of spans some of which have not ended: other threads may add to their attributes."""
    rows = span_rows(spans)
    for row in rows:
        row[8] = dict(row[8])
    return rows


def _entry(row: SpanRow) -> _Entry:
    return row[6] in _FAILED, row[0] - row[5], row[1], row


def _if_alive(renew: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    def call() -> None:
        if (alive := renew()) is not None:
            alive()

    return call
