"""The live stream: what changed, as small deltas, for whoever is watching (server-sent events of the dashboard)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, NamedTuple

from taskflow_otel.bus import Exporter
from taskflow_otel.exporters.lines.text import iso
from taskflow_otel.model.events import LifecycleEvent, LogEvent, without_exception
from taskflow_otel.model.record import Progress, TaskRecord

_PROGRESS_INTERVAL = 0.2
_ERROR_LENGTH = 300


class StreamMessage(NamedTuple):
    """One server-sent event: `task`, `log`, `progress`, or `reset` (what was missed cannot be replayed: read anew)."""

    id: str
    event: str
    data: dict[str, Any]


class _ProgressOf(NamedTuple):
    task_id: str
    attempt: int
    progress: Progress


_Item = LifecycleEvent | LogEvent | TaskRecord | _ProgressOf


class LiveStream(Exporter):
    """A bounded ring of the latest changes, read by any number of subscribers at their own pace.

    What passes is only kept; it is turned into data when someone reads it, so an unwatched stream costs an append.
    A subscriber that falls behind by more than `size` changes gets a `reset` and goes on from there. Ids are opaque
    and belong to one process: an id of another one is answered by a `reset` too.
    """

    name = "stream"

    def __init__(self, size: int = 4096, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring: deque[_Item] = deque(maxlen=size)
        self._size = size
        self._first = 0
        """Number of the oldest change in the ring."""
        self._epoch = secrets.token_hex(4)
        self._waiting: list[asyncio.Future[None]] = []
        self._progress_at: dict[str, float] = {}
        self._clock = clock
        self._closed = False
        self.subscribers = 0
        self.resets = 0
        """How often a subscriber had missed changes that were gone from the ring."""

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Keep the transition for the subscribers."""
        self._append(event if event.exception is None else without_exception(event))
        if self._progress_at and event.status.finished:
            self._progress_at.pop(event.task_id, None)

    def on_log(self, event: LogEvent) -> None:
        """Keep the log entry for the subscribers."""
        self._append(event)

    def on_progress(self, record: TaskRecord) -> None:
        """Keep the progress report for the subscribers: at most a few a second for one task, and the last."""
        progress = record.progress
        if progress is None:
            return
        now = self._clock()
        complete = progress.total is not None and progress.done >= progress.total
        if not complete and now - self._progress_at.get(record.task_id, float("-inf")) < _PROGRESS_INTERVAL:
            return
        self._progress_at[record.task_id] = now
        self._append(_ProgressOf(record.task_id, record.attempt, progress))

    def inject(self, record: TaskRecord) -> None:
        """Show a task as another instance has left it. `record` must be a copy."""
        self._append(record)

    def start(self) -> None:
        """Take subscriptions again after a close."""
        self._closed = False

    def close(self) -> None:
        """End every subscription."""
        self._closed = True
        self._wake()

    @property
    def cursor(self) -> str:
        """The id of the latest change: a page read now is continued by `subscribe(cursor)`."""
        return self._id(self._first + len(self._ring) - 1)

    async def subscribe(self, last_event_id: str | None = None) -> AsyncIterator[StreamMessage]:
        """Yield changes as they come, after those that followed `last_event_id`; ends when the stream is closed.

        When several changes of one task wait, only the latest of them is yielded; log entries are all yielded.
        """
        self.subscribers += 1
        try:
            position = self._first + len(self._ring)
            if last_event_id is not None:
                resumed = self._position_after(last_event_id)
                if resumed is None:
                    yield self._reset(position)
                else:
                    position = resumed
            while not self._closed:
                end = self._first + len(self._ring)
                if position < self._first:
                    position = end
                    yield self._reset(position)
                elif position < end:
                    items = [self._ring[index - self._first] for index in range(position, end)]
                    start, position = position, end
                    for number, item in _latest(items):
                        event, data = _render(item)
                        yield StreamMessage(self._id(start + number), event, data)
                else:
                    await self._changed()
        finally:
            self.subscribers -= 1

    def _append(self, item: _Item) -> None:
        ring = self._ring
        if len(ring) == self._size:
            self._first += 1
        ring.append(item)
        if self._waiting:
            self._wake()

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

    def _reset(self, position: int) -> StreamMessage:
        self.resets += 1
        return StreamMessage(self._id(position - 1), "reset", {})

    def _id(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    def _position_after(self, event_id: str) -> int | None:
        epoch, _, text = event_id.partition("-")
        # Only ids that this stream has given out can be resumed from.
        if epoch != self._epoch or not text.removeprefix("-").isdecimal() or not text.isascii():
            return None
        position = int(text) + 1
        return position if self._first <= position <= self._first + len(self._ring) else None


def _latest(items: list[_Item]) -> list[tuple[int, _Item]]:
    """The items without those that a later one of the same task makes obsolete."""
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
        }
    if isinstance(item, _ProgressOf):
        return "progress", {
            "task_id": item.task_id,
            "attempt": item.attempt,
            "progress": _progress(item.progress),
        }
    return "task", _task(item)


def _task(task: LifecycleEvent | TaskRecord) -> dict[str, Any]:
    data: dict[str, Any] = {
        "task_id": task.task_id,
        "func_name": task.func_name,
        "status": task.status,
        "queue": task.queue,
        "attempt": task.attempt,
        "retries_used": task.retries_used,
        "created_at": iso(task.created_at),
        "run_at": _iso(task.run_at),
        "start_time": _iso(task.start_time),
        "end_time": _iso(task.end_time),
        "duration": task.duration,
        "error": _first_line(task.error),
        "error_type": task.error_type,
        "reason": task.reason,
        "tags": dict(task.tags),
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


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def _first_line(error: str | None) -> str | None:
    if error is None:
        return None
    first, _, rest = error.partition("\n")
    return first[:_ERROR_LENGTH] + ("…" if rest or len(first) > _ERROR_LENGTH else "")
