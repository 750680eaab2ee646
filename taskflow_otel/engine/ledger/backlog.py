"""The pending changes, and which of them go into the next transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import assert_never

from taskflow_otel.backends.base import AppendSpans
from taskflow_otel.engine.ledger.backend_health import BackendHealth
from taskflow_otel.engine.ledger.batch import Batch, Commit, Item, Lines, Note, Spans, notes_of
from taskflow_otel.engine.ledger.notes import NotedLines, NotedSpans, Notes
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.model.record import LogEntry
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.retrying import BACKEND

MAX_BATCH = 500
"""Changes in one transaction: converting more into rows would block the event loop for too long."""
_MAX_NOTES = 50_000
"""Notes that may wait for a failing backend; beyond it, those of the oldest finished tasks are dropped and counted."""


_MOST_SPANS = 16_777_216
"""Characters of spans that may wait."""


class Backlog:
    """Commits with waiting callers, and history that is written with them or every `interval` seconds."""

    def __init__(self, clock: Clock, health: BackendHealth, *, interval: float) -> None:
        self._clock = clock
        self._health = health
        self._interval = interval
        self._commits: deque[Commit] = deque()
        self.in_hand: list[Commit] = []
        """Part of the current transaction."""
        self._apart: deque[Batch] = deque()
        """Parts of failed transactions, tried apart from the other changes."""
        self._turn_of_apart = False
        self._notes = Notes()
        self._ended_asked = False
        self._lines = NotedLines()
        self._spans = NotedSpans(_MOST_SPANS)
        self._flush_asked = False
        self._barriers: list[asyncio.Future[None]] = []
        self._apart_barriers: list[asyncio.Future[None]] = []
        self._timer_armed = False
        self.wake: asyncio.Event = asyncio.Event()
        """Set when there may be something to write."""

    def open(self) -> None:
        """From now on, wake a writer on this event loop."""
        self.wake = asyncio.Event()
        self._timer_armed = False

    def __bool__(self) -> bool:
        return bool(self._commits or self._notes or self._lines or self._spans or self._apart)

    def add(self, commit: Commit) -> None:
        """Add a change to the next transaction."""
        self._commits.append(commit)
        self.wake.set()

    def add_apart(self, commit: Commit) -> None:
        """Add a change that gets its own transaction."""
        self._apart.append(Batch([commit], True))
        self.wake.set()

    def note(self, task: LiveTask) -> None:
        """Add a task whose state will be written, as it is at that time."""
        notes = self._notes
        if not notes.add(task):
            return
        if not self._ended_asked and len(notes.ended) >= MAX_BATCH:
            self._ended_asked = True
            self.wake.set()
        if self._health.outage.since is not None:
            self._trim()
        if not self._timer_armed:
            self._arm()

    def append_log(self, task_id: str, entry: LogEntry) -> None:
        """Add a log entry."""
        self._lines.add(task_id, entry)
        if self._health.failing_since is not None:
            self._trim()
        if not self._timer_armed:
            self._arm()

    def append_spans(self, spans: AppendSpans) -> None:
        """Add the spans of an attempt; they go into the next transaction, with its outcome."""
        self._health.dropped_history += self._spans.add(spans)
        if not self._timer_armed:
            self._arm()

    def flush(self) -> asyncio.Future[None]:
        """Ask for everything so far to be written now; the future resolves when it is."""
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append(barrier)
        self._due()
        return barrier

    def pending(self) -> list[Commit]:
        """The commits that are not written yet."""
        apart = (item for batch in self._apart for item in batch.items if isinstance(item, Commit))
        return [*self.in_hand, *self._commits, *apart]

    def take_back(self, commits: Iterable[Commit]) -> None:
        """Withdraw commits, except those that were tried already: these stay until their outcome is known."""
        left = {id(commit) for commit in commits}
        self._commits = deque(commit for commit in self._commits if commit.tried or id(commit) not in left)

    def clear(self) -> None:
        """Forget the commits: they will not be written."""
        self.in_hand = []
        self._commits.clear()
        self._apart.clear()
        self.release_all()

    def release_all(self) -> None:
        """Wake the callers that wait for a flush that will not happen."""
        _release(self._barriers + self._apart_barriers)
        self._barriers, self._apart_barriers = [], []

    def next_batch(self) -> Batch | None:
        """Take new changes and those set apart in turn, so that neither delays the other."""
        now = self._clock.monotonic()
        due = next((batch for batch in self._apart if batch.due <= now), None)
        new = bool(self._commits or self._flush_asked or self._ended_asked)
        if due is not None and (self._turn_of_apart or not new):
            self._turn_of_apart = False
            self._apart.remove(due)
            return due
        self._turn_of_apart = True
        return self._gather() if new else None

    def _gather(self) -> Batch:
        commits = [self._commits.popleft() for _ in range(min(MAX_BATCH, len(self._commits)))]
        items: list[Item] = []
        batch = Batch([])
        logs: list[Item] = []
        if self._flush_asked or self._ended_asked:
            # Unfinished tasks will change again, so their notes are written only at a flush.
            items += notes_of(self._notes.take(MAX_BATCH, only_ended=not self._flush_asked))
            self._ended_asked = len(self._notes.ended) >= MAX_BATCH
        if self._spans:
            logs += map(Spans, self._spans.take(MAX_BATCH, self._notes.will_insert))
        if self._flush_asked:
            self._flush_asked = False
            logs += [Lines(lines) for lines in self._lines.take(self._notes.will_insert)]
            if not (self._commits or self._notes or self._lines or self._spans):
                batch.barriers, self._barriers = self._barriers, []
            else:
                self._flush_asked = True
        items += commits
        items += logs
        if self._apart:
            # Changes of a task that were set apart must be written before its new ones.
            waiting = {item.task_id: part for part in self._apart for item in part.items}
            for item in items:
                if (part := waiting.get(item.task_id)) is not None:
                    part.items.append(item)
                    if isinstance(item, Commit):
                        item.tried = True
            items = [item for item in items if item.task_id not in waiting]
        batch.items = items
        return batch

    def written(self, batch: Batch) -> None:
        """A batch is written: wake the callers that wait for it, once no part of it is set apart any more."""
        self._apart_barriers += batch.barriers
        if not self._apart:
            _release(self._apart_barriers)
            self._apart_barriers = []

    def put_back(self, batch: Batch) -> None:
        """Nothing of a batch was written: put it back at the front."""
        if batch.apart:
            batch.items = _tried(batch.items)
            self._apart.appendleft(batch)
            return
        self._barriers = batch.barriers + self._barriers
        commits: list[Commit] = []
        history = False
        for item in batch.items:
            match item:
                case Commit():
                    commits.append(item)
                case Note(task):
                    task.insert_tried = task.insert_tried or not task.stored
                    self._notes.put_back(task)
                    history = True
                case Lines(log):
                    self._lines.put_back(log)
                    history = True
                case Spans(spans):
                    self._health.dropped_history += self._spans.put_back(spans)
                    history = True
                case _:
                    assert_never(item)
        self._commits.extendleft(reversed(commits))
        if self._health.failing_since is not None:
            self._trim()
        self._flush_asked = self._flush_asked or history or bool(self._barriers)

    def divide(self, batch: Batch) -> bool:
        """Set the two halves of a batch apart; return `False` if all its changes are of one task."""
        halves = batch.halves()
        self._apart.extendleft(reversed(halves))
        return bool(halves)

    def set_apart(self, items: list[Item], failures: int) -> None:
        """Try the changes of one task again after a pause, which grows with the number of their failures."""
        wait = BACKEND.after(failures)
        self._apart.append(Batch(items, True, self._clock.monotonic() + wait, failures))
        self._clock.call_later(wait, self.wake.set)

    def _trim(self) -> None:
        # Only while the backend fails: one that answers gets all notes.
        self._health.dropped_history += self._notes.trim(_MAX_NOTES) + self._lines.trim(_MAX_NOTES)

    def _arm(self) -> None:
        self._timer_armed = True
        self._clock.call_later(self._interval, self._ring)

    def _ring(self) -> None:
        self._timer_armed = False
        self._due()

    def _due(self) -> None:
        self._flush_asked = True
        self.wake.set()


def _tried(items: Iterable[Item]) -> list[Item]:
    """The items of a batch that failed as they are written again."""
    again: list[Item] = []
    for item in items:
        if not isinstance(item, Note):
            again.append(item)
        elif not item.after_insert:
            item.task.insert_tried = item.task.insert_tried or not item.task.stored
            again += notes_of([item.task])
    return again


def _release(barriers: Iterable[asyncio.Future[None]]) -> None:
    for barrier in barriers:
        if not barrier.done():
            barrier.set_result(None)
