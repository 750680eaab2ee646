"""The live stream: changes of tasks as small deltas, for the dashboard's server-sent events."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from taskflow_otel.bus import Exporter
from taskflow_otel.model.events import LifecycleEvent, LogEvent, without_exception
from taskflow_otel.model.plain import iso, plain_value
from taskflow_otel.model.record import Progress, TaskRecord
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock

_PROGRESS_INTERVAL = 0.2
_ERROR_LENGTH = 300
_INTERVAL = 0.1
"""Seconds for which changes are collected before they are sent, so that only the latest of each task is encoded."""
_INTERVAL_PER_SUBSCRIBER = 0.002
"""Additional seconds for each subscriber: more subscribers mean later changes, not more work for the loop."""
_ENCODED_PER_TURN = 128
"""Changes that are encoded before others get the event loop."""
_FOREVER = datetime.max.replace(tzinfo=UTC)
_CHUNK = 64 * 1024
"""Bytes at which a chunk is full: this much waits in the write buffer of a client that does not read."""


class _ProgressOf(NamedTuple):
    task_id: str
    attempt: int
    progress: Progress


_Item = LifecycleEvent | LogEvent | TaskRecord | _ProgressOf


class _Chunk(NamedTuple):
    """Several encoded changes, and the number of the first change after them."""

    end: int
    data: bytes


class LiveStream(Exporter):
    """A bounded ring of the latest changes, read by any number of subscribers at their own pace.

    Changes are collected for `interval` seconds and then encoded once, for all subscribers. A subscriber that is more
    than `size` changes behind gets the event `reset`, because the missed changes are gone: it must read the tasks
    again, and then continues. Without subscribers, a change is kept while an id that was given out can still lead to
    it. After `size` changes that is over, and the bus leaves the stream out. Ids are opaque and belong to one process:
    the id of another process leads to a `reset` too.
    """

    name = "stream"

    def __init__(self, size: int = 4096, *, interval: float = _INTERVAL, clock: Clock = SYSTEM_CLOCK) -> None:
        self._ring: deque[_Item] = deque(maxlen=size)
        self._size = size
        self._first = 0
        """Number of the oldest change in the ring."""
        self._process = 0
        self._epoch = secrets.token_hex(4)
        self._interval = interval
        self._published = 0
        """Number of the first change that was not sent yet."""
        self._frames: dict[int, bytes] = {}
        """Encoded changes, by number."""
        self._chunks: tuple[int, list[_Chunk]] = (-1, [])
        """The latest chunks, with the number of their first change."""
        self._unasked = 0
        """How many further changes are kept although no one subscribes."""
        self._news: asyncio.Event | None = None
        """Set by a change; `None` without subscribers."""
        self._stirred = False
        """Whether `_news` is set, without a call for each change."""
        self._publisher: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._progress_at: dict[str, float] = {}
        self._clock = clock
        self._closed = False
        self.subscribers: int = 0
        self.encoded: int = 0
        """How many changes have been encoded."""
        self.resets: int = 0
        """How often a subscriber missed changes that were no longer in the ring."""

    def idle_until(self, now: datetime) -> datetime | None:
        """Without subscribers, and with no id that leads to new changes, it needs none."""
        return None if self._news is not None or self._unasked or self._ring or self._progress_at else _FOREVER

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Keep the transition for the subscribers."""
        # `_append` without the call: three of these for each task.
        ring = self._ring
        if self._news is not None:
            if len(ring) == self._size:
                self._first += 1
            ring.append(event if event.exception is None else without_exception(event))
            if not self._stirred:
                self._stirred = True
                self._news.set()
        elif not self._unasked and not ring:
            self._first += 1
        else:
            self._append(event if event.exception is None else without_exception(event))
        if self._progress_at and event.status.finished:
            self._progress_at.pop(event.task_id, None)

    def on_log(self, event: LogEvent) -> None:
        """Keep the log entry for the subscribers."""
        self._append(event)

    def on_progress(self, record: TaskRecord) -> None:
        """Keep the progress report for the subscribers: at most a few per second for each task, and the last one."""
        progress = record.progress
        if progress is None:
            return
        now = self._clock.monotonic()
        complete = progress.total is not None and progress.done >= progress.total
        if not complete and now - self._progress_at.get(record.task_id, float("-inf")) < _PROGRESS_INTERVAL:
            return
        self._progress_at[record.task_id] = now
        self._append(_ProgressOf(record.task_id, record.attempt, progress))

    def inject(self, record: TaskRecord) -> None:
        """Show a task that another instance changed. `record` must be a copy."""
        self._append(record)

    def start(self) -> None:
        """Accept subscriptions, also after a close."""
        self._closed = False
        if self._process != os.getpid():
            self._process = os.getpid()
            self._epoch = secrets.token_hex(4)

    def close(self) -> None:
        """End every subscription."""
        self._closed = True
        self._wake()

    @property
    def cursor(self) -> str:
        """The id of the latest change: `subscribe(cursor)` continues a page that is read now.

        From now on, changes are kept for a while.
        """
        self._unasked = self._size
        self.wake()
        return self._id(self._end - 1)

    async def subscribe(self, last_event_id: str | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the encoded events after `last_event_id`, and then new ones until the stream is closed.

        The events are `task`, `log`, `progress` and `reset`; one piece may hold several. If several changes of one
        task wait, only the latest is yielded; log entries are all yielded.
        """
        self._enter()
        try:
            position = self._end
            if last_event_id is not None:
                resumed = self._position_after(last_event_id)
                if resumed is None:
                    yield self._reset(position)
                else:
                    position = resumed
            while not self._closed:
                if position < self._first:
                    position = self._end
                    yield self._reset(position)
                elif position < self._published:
                    start, chunks = self._chunks
                    if start != position:
                        chunks = await self._encode(position, self._published)
                    for chunk in chunks:
                        position = chunk.end
                        yield chunk.data
                else:
                    await self._changed()
        finally:
            self._leave()

    @property
    def _end(self) -> int:
        return self._first + len(self._ring)

    def _enter(self) -> None:
        self.subscribers += 1
        if self._publisher is None or self._publisher.done():
            self._published = self._end
            self._news, self._stirred = asyncio.Event(), False
            self.wake()
            self._publisher = asyncio.create_task(self._publish(self._news), name="taskflow live stream")

    def _leave(self) -> None:
        self.subscribers -= 1
        if self.subscribers == 0:
            self._news = None
            self._unasked = self._size
            if self._publisher is not None:
                self._publisher.cancel()
                self._publisher = None
            self._frames.clear()
            self._chunks = (-1, [])

    async def _publish(self, news: asyncio.Event) -> None:
        while True:
            await news.wait()
            await asyncio.sleep(self._interval + _INTERVAL_PER_SUBSCRIBER * self.subscribers)
            news.clear()
            self._stirred = False
            start, end = self._published, self._end
            # If the ring has lost one of these changes, each waiting subscriber is reset: no one would get the others.
            self._chunks = (-1, []) if start < self._first else (start, await self._encode(start, end))
            self._published = end
            if len(self._frames) > self._size:
                self._frames = {number: data for number, data in self._frames.items() if number >= self._first}
            self._wake()

    async def _encode(self, start: int, end: int) -> list[_Chunk]:
        """The changes from number `start` to before `end`; each is encoded only once."""
        latest = _latest(list(islice(self._ring, start - self._first, end - self._first)))
        chunks, pieces, length, fresh = [], list[bytes](), 0, 0
        for offset, item in latest:
            number = start + offset
            piece = self._frames.get(number)
            if piece is None:
                piece = self._frames[number] = frame(self._id(number), *_render(item))
                self.encoded += 1
                fresh += 1
                if fresh % _ENCODED_PER_TURN == 0:
                    await asyncio.sleep(0)
            pieces.append(piece)
            length += len(piece)
            if length >= _CHUNK:
                chunks.append(_Chunk(number + 1, b"".join(pieces)))
                pieces, length = [], 0
        if pieces:
            chunks.append(_Chunk(end, b"".join(pieces)))
        return chunks

    def _append(self, item: _Item) -> None:
        ring = self._ring
        if self._news is None:
            if not self._unasked:
                # Every id that was given out is before the ring.
                self._first += len(ring) + 1
                ring.clear()
                return
            self._unasked -= 1
        if len(ring) == self._size:
            self._first += 1
        ring.append(item)
        if self._news is not None:
            self._stirred = True
            self._news.set()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _changed(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def _reset(self, position: int) -> bytes:
        self.resets += 1
        return frame(self._id(position - 1), "reset", {})

    def _id(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    def _position_after(self, event_id: str) -> int | None:
        epoch, _, text = event_id.partition("-")
        # Only an id of this stream can be continued.
        if epoch != self._epoch or not text.removeprefix("-").isdecimal() or not text.isascii():
            return None
        position = int(text) + 1
        return position if self._first <= position <= self._end else None


# Not by `fastapi.sse`, which the oldest FastAPI that is supported does not have, and which encodes for each watcher.
def frame(event_id: str, event: str, data: dict[str, Any]) -> bytes:
    """One server-sent event. JSON escapes every line break, so data cannot forge a field of the stream."""
    try:
        body = msgspec.json.encode(data)
    except (TypeError, ValueError, OverflowError, RecursionError):
        # No value of a task leads here; this ensures valid JSON in any case.
        body = json.dumps(plain_value(data), separators=(",", ":")).encode()
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), event.encode(), body)


def _latest(items: list[_Item]) -> list[tuple[int, _Item]]:
    """The items, without those that a later item of the same task replaces."""
    last: dict[tuple[str, bool], int] = {}
    for number, item in enumerate(items):
        if not isinstance(item, LogEvent):
            last[item.task_id, isinstance(item, _ProgressOf)] = number
    return [
        (number, item)
        for number, item in enumerate(items)
        if isinstance(item, LogEvent) or last[item.task_id, isinstance(item, _ProgressOf)] == number
    ]


def _render(item: _Item) -> tuple[str, dict[str, Any]]:
    if isinstance(item, LogEvent):
        return "log", {
            "task_id": item.task_id,
            "seq": item.seq,
            "timestamp": iso(item.timestamp),
            "level": item.level,
            "message": item.message,
            "attempt": item.attempt,
            "extra": item.extra,
        }
    if isinstance(item, _ProgressOf):
        return "progress", {
            "task_id": item.task_id,
            "attempt": item.attempt,
            "progress": _progress(item.progress),
        }
    return "task", _task(item)


def _task(task: LifecycleEvent | TaskRecord) -> dict[str, Any]:
    run_at, start_time, end_time = task.run_at, task.start_time, task.end_time
    data: dict[str, Any] = {
        "task_id": task.task_id,
        "func_name": task.func_name,
        "status": task.status,
        "queue": task.queue,
        "attempt": task.attempt,
        "retries_used": task.retries_used,
        "created_at": iso(task.created_at),
        "run_at": None if run_at is None else iso(run_at),
        "start_time": None if start_time is None else iso(start_time),
        "end_time": None if end_time is None else iso(end_time),
        "duration": task.duration,
        "error": None if task.error is None else _first_line(task.error),
        "error_type": task.error_type,
        "reason": task.reason,
        "tags": task.tags,
        "source": task.source,
        "priority": task.priority,
        "executor": task.executor,
        "instance": task.instance,
        "trace_id": task.trace_id,
        "span_id": task.span_id,
    }
    if isinstance(task, TaskRecord):
        data["progress"] = None if task.progress is None else _progress(task.progress)
    else:
        data["transition"] = task.transition
        data["timestamp"] = iso(task.timestamp)
    return data


def _progress(progress: Progress) -> dict[str, Any]:
    return {"done": progress.done, "total": progress.total, "message": progress.message}


def _first_line(error: str) -> str:
    first, _, rest = error.partition("\n")
    return first[:_ERROR_LENGTH] + ("…" if rest or len(first) > _ERROR_LENGTH else "")
