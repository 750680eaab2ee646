"""What waits to be written, and which of it goes into the next transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from taskflow_otel.engine.ledger.backend_health import BackendHealth
from taskflow_otel.engine.ledger.batch import Batch, Commit, Item, Lines, Note
from taskflow_otel.engine.ledger.notes import NotedLines, Notes
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.model.record import LogEntry
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.retrying import BACKEND

MAX_BATCH = 500
"""Changes in one transaction: more would keep the event loop for too long while they are turned into rows."""
_MAX_NOTES = 50_000
"""Notes that may wait for a backend that is down; beyond it the oldest of finished tasks are dropped and counted."""


class Backlog:
    """Commits that somebody waits for, and history that is written with them, or every `interval` seconds."""

    def __init__(self, clock: Clock, health: BackendHealth, *, interval: float) -> None:
        self._clock = clock
        self._health = health
        self._interval = interval
        self._commits: list[Commit] = []
        self.in_hand: list[Commit] = []
        """Part of the transaction under way."""
        self._apart: deque[Batch] = deque()
        """Parts of transactions that failed, to be tried beside the others."""
        self._turn_of_apart = False
        self._notes = Notes()
        self._ended_asked = False
        self._lines = NotedLines()
        self._flush_asked = False
        self._barriers: list[asyncio.Future[None]] = []
        self._apart_barriers: list[asyncio.Future[None]] = []
        self._timer_armed = False
        self.wake = asyncio.Event()
        """Set when there may be something to write."""

    def open(self) -> None:
        """Wake a writer on this event loop from now on."""
        self.wake = asyncio.Event()
        self._timer_armed = False

    def __bool__(self) -> bool:
        return bool(self._commits or self._notes or self._lines or self._apart)

    def add(self, commit: Commit) -> None:
        """Have a change written with the next transaction."""
        self._commits.append(commit)
        self.wake.set()

    def add_apart(self, commit: Commit) -> None:
        """Have a change written in a transaction of its own."""
        self._apart.append(Batch([commit], True))
        self.wake.set()

    def note(self, task: LiveTask) -> None:
        """Have the state of a task written, as it is then."""
        self._notes.add(task)
        if self._notes.ended >= MAX_BATCH and not self._ended_asked:
            self._ended_asked = True
            self.wake.set()
        if self._health.failing_since is not None:
            self._trim()
        if not self._timer_armed:
            self._arm()

    def append_log(self, task_id: str, entry: LogEntry) -> None:
        """Have a log entry written."""
        self._lines.add(task_id, entry)
        if self._health.failing_since is not None:
            self._trim()
        if not self._timer_armed:
            self._arm()

    def flush(self) -> asyncio.Future[None]:
        """Have everything written now that waits so far; the future resolves when it is."""
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append(barrier)
        self._due()
        return barrier

    def pending(self) -> list[Commit]:
        """The commits that are not written yet."""
        apart = (item for batch in self._apart for item in batch.items if isinstance(item, Commit))
        return [*self.in_hand, *self._commits, *apart]

    def take_back(self, commits: Iterable[Commit]) -> None:
        """Write these no more, unless they were tried already: such a commit stays until its fate is known."""
        left = {id(commit) for commit in commits}
        self._commits = [commit for commit in self._commits if commit.tried or id(commit) not in left]

    def clear(self) -> None:
        """Forget the commits: nobody will write them."""
        self.in_hand, self._commits = [], []
        self._apart.clear()
        self.release_all()

    def release_all(self) -> None:
        """Wake those who wait for a flush that will not come."""
        _release(self._barriers + self._apart_barriers)
        self._barriers, self._apart_barriers = [], []

    def next_batch(self) -> Batch | None:
        """New changes and those set apart by turns, so that neither waits for all of the other."""
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
        commits, self._commits = self._commits[:MAX_BATCH], self._commits[MAX_BATCH:]
        items: list[Item] = []
        batch = Batch([])
        logs: list[Item] = []
        if self._flush_asked or self._ended_asked:
            # Of tasks that go on, more will follow: they are written when it is time.
            items += [Note(task) for task in self._notes.take(MAX_BATCH, only_ended=not self._flush_asked)]
            self._ended_asked = self._notes.ended >= MAX_BATCH
        if self._flush_asked:
            self._flush_asked = False
            logs += [Lines(lines) for lines in self._lines.take()]
            if not (self._commits or self._notes):
                batch.barriers, self._barriers = self._barriers, []
            else:
                self._flush_asked = True
        items += commits
        items += logs
        if self._apart:
            # What is set apart of a task comes first, whenever that is.
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
        """A batch is done with: those who wait for it are woken, once nothing of it is set apart any more."""
        self._apart_barriers += batch.barriers
        if not self._apart:
            _release(self._apart_barriers)
            self._apart_barriers = []

    def put_back(self, batch: Batch) -> None:
        """Nothing of a batch was written: it comes first again."""
        if batch.apart:
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
                    self._notes.put_back(task)
                    history = True
                case Lines(log):
                    self._lines.put_back(log)
                    history = True
        self._commits = commits + self._commits
        if self._health.failing_since is not None:
            self._trim()
        self._flush_asked = self._flush_asked or history or bool(self._barriers)

    def divide(self, batch: Batch) -> bool:
        """Set the two halves of a batch apart; `False` where all its changes are of one task."""
        halves = batch.halves()
        self._apart.extendleft(reversed(halves))
        return bool(halves)

    def set_apart(self, items: list[Item], failures: int) -> None:
        """Try the changes of one task again after a pause, which grows with the number of their failures."""
        wait = BACKEND.after(failures)
        self._apart.append(Batch(items, True, self._clock.monotonic() + wait, failures))
        self._clock.call_later(wait, self.wake.set)

    def _trim(self) -> None:
        # Only while the backend fails: one that answers is given everything.
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


def _release(barriers: Iterable[asyncio.Future[None]]) -> None:
    for barrier in barriers:
        if not barrier.done():
            barrier.set_result(None)
