"""The one writer of this process: group commit towards the backend, with retries that lose nothing.

Whoever needs a change to be durable awaits `commit`; changes that arrive while a transaction is under way go
into the next one together. History of tasks that are not persisted is noted, and written with the
next transaction or after `snapshot_interval`, whichever comes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from taskflow_otel.backends.base import AppendLogs, Applied, Backend, Change, Insert, Outcome, Update
from taskflow_otel.engine.live import REFUSED, LiveTask, Phase
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.runtime.clock import Clock, TimerHandle

logger = logging.getLogger("taskflow_otel.ledger")

_MAX_BATCH = 500
"""Changes in one transaction: more would keep the event loop for too long while they are turned into rows."""
_MAX_NOTES = 50_000
"""Notes that may wait for a backend that is down; beyond it the oldest of finished tasks are dropped and counted."""
_FOREVER = float("inf")
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.05, 1.0

Observe = Callable[[str, str, str, float], None]
"""`(backend, operation, outcome, seconds)`"""


@dataclass(slots=True, eq=False)
class _Commit:
    change: Change
    future: asyncio.Future[Applied]
    deadline: float
    """Monotonic; infinite for whoever waits as long as it takes."""
    tried: bool = False
    """It was part of a transaction that failed, and may have been applied all the same."""


class Ledger:
    """Group commit over one backend.

    `before_write` is awaited before each transaction, and stops it by raising. `on_late` is called with the change of
    a commit whose caller had given up on it, when it was applied after all, and with whether
    that has been overtaken by another instance since.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        snapshot_interval: float,
        commit_timeout: float,
        observe: Observe,
        before_write: Callable[[], Awaitable[None]],
        on_late: Callable[[Change, bool], None],
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._interval = snapshot_interval
        self._commit_timeout = commit_timeout
        self._observe = observe
        self._before_write = before_write
        self._on_late = on_late
        self._commits: list[_Commit] = []
        self._in_hand: list[_Commit] = []
        """Part of the transaction under way."""
        self._deadline_timer: TimerHandle | None = None
        """One for all commits: set for the earliest of their deadlines, or earlier."""
        self._timer_deadline = float("inf")
        self._notes: dict[str, LiveTask] = {}
        self._ended: dict[str, None] = {}
        """Those of the notes whose task has finished, oldest first: only these can be dropped."""
        self._ended_asked = False
        self._logs: dict[str, list[LogEntry]] = {}
        self._log_count = 0
        self._wake = asyncio.Event()
        self._flush_asked = False
        self._barriers: list[asyncio.Future[None]] = []
        self._writing = False
        self._writer: asyncio.Task[None] | None = None
        self._closing = False
        self._timer_armed = False
        self.dropped_history = 0
        """Finished tasks and log lines whose history was given up because the backend was down for too long."""
        self.failing_since: float | None = None
        """Monotonic time since which the backend has been failing; `None` while it answers."""

    def start(self) -> None:
        """Start the writer, on this event loop."""
        self._wake = asyncio.Event()
        self._closing = self._timer_armed = False
        self._writer = asyncio.create_task(self._run(), name="taskflow-ledger")

    async def commit(self, change: Change, *, timeout: float | None = None) -> Applied:
        """Return once `change` is durable.

        Raises `BackendUnavailableError` when that takes longer than `timeout` (default: the commit timeout) and
        `BackendError` when the backend refuses the change for good. `float("inf")` waits for as long as it takes.
        """
        entry = self._submit(change, self._deadline(timeout))
        try:
            return await entry.future
        except BaseException:
            self._abandon([entry])
            raise

    async def commit_all(self, changes: Sequence[Change], *, timeout: float | None = None) -> list[Applied]:
        """Return once all changes are durable; see `commit`. After an error, some of them may be."""
        deadline = self._deadline(timeout)
        entries: list[_Commit] = []
        try:
            for start in range(0, len(changes), _MAX_BATCH):
                if start:
                    await asyncio.sleep(0)
                entries += [self._submit(change, deadline) for change in changes[start : start + _MAX_BATCH]]
            return [await entry.future for entry in entries]
        except BaseException:
            self._abandon(entries)
            raise

    def _deadline(self, timeout: float | None) -> float:
        """When a commit that begins now is given up."""
        limit = self._commit_timeout if timeout is None else timeout
        if limit == _FOREVER:
            return _FOREVER
        deadline = self._clock.monotonic() + limit
        if deadline < self._timer_deadline:
            self._set_timer(limit, deadline)
        return deadline

    def _submit(self, change: Change, deadline: float) -> _Commit:
        entry = _Commit(change, asyncio.get_running_loop().create_future(), deadline)
        self._commits.append(entry)
        self._wake.set()
        return entry

    def _set_timer(self, delay: float, deadline: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._timer_deadline = deadline
        self._deadline_timer = self._clock.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        """Give up the commits whose time is over, and wait for the next of them."""
        self._deadline_timer = None
        self._timer_deadline = _FOREVER
        now = self._clock.monotonic() + 1e-6
        waiting = [entry for entry in (*self._in_hand, *self._commits) if not entry.future.done()]
        self._give_up([entry for entry in waiting if entry.deadline <= now])
        earliest = min((entry.deadline for entry in waiting if entry.deadline > now), default=_FOREVER)
        if earliest != _FOREVER:
            self._set_timer(earliest - now, earliest)

    def _abandon(self, entries: list[_Commit]) -> None:
        """Nobody awaits these any more: what was applied is to be set right."""
        self._give_up(entries)
        for entry in entries:
            if not entry.future.cancelled() and entry.future.exception() is None:
                self._late(entry.change, entry.future.result())

    def doubtful(self) -> dict[str, int]:
        """How many lines of its timeline have been told of, for each task whose last commit was given up on.

        What was told is that it failed; whether it did, only the backend knows as yet. See `LiveTasks.unpublished`.
        """
        doubts: dict[str, int] = {}
        for entry in (*self._in_hand, *self._commits):
            if entry.future.done() and not isinstance(entry.change, AppendLogs):
                record = entry.change.record
                doubts[record.task_id] = REFUSED if isinstance(entry.change, Insert) else len(record.timeline) - 1
        return doubts

    async def holds(self, record: TaskRecord) -> bool:
        """Whether the last line of a record's timeline is in the ledger, whoever owns the task now.

        Waits for the backend for as long as it takes.
        """
        backoff = _FIRST_BACKOFF
        while True:
            try:
                stored = await self._backend.get(record.task_id)
                break
            except BackendError as exc:
                if not exc.transient:
                    raise
                await self._clock.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
        place = len(record.timeline) - 1
        return stored is not None and stored.timeline[place : place + 1] == record.timeline[place:]

    def note(self, task: LiveTask) -> None:
        """Have the present state of a task written before long: history of one that is not persisted, or what a
        running durable task says between its transitions (progress, the ids of its span)."""
        record = task.record
        self._notes[record.task_id] = task
        if record.status.finished:
            self._ended[record.task_id] = None
            if len(self._ended) >= _MAX_BATCH:
                self._trim_notes()
                self._ended_asked = True
                self._wake.set()
        self._arm()

    def append_log(self, task_id: str, entry: LogEntry) -> None:
        """Have a log entry written before long."""
        self._logs.setdefault(task_id, []).append(entry)
        self._log_count += 1
        if self._log_count > _MAX_NOTES:
            oldest = next(iter(self._logs))
            lost = len(self._logs.pop(oldest))
            self._log_count -= lost
            self.dropped_history += lost
        self._arm()

    async def flush(self, timeout: float) -> bool:
        """Write everything noted so far; `False` when that did not end in time."""
        if not (self._commits or self._notes or self._logs or self._writing):
            return True
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append(barrier)
        self._flush_asked = True
        self._wake.set()
        try:
            await asyncio.wait_for(barrier, timeout)
        except TimeoutError:
            return False
        return True

    async def close(self, timeout: float) -> bool:
        """Flush and stop the writer; `False` when something could not be written in time."""
        if self._writer is None:
            return True
        complete = await self.flush(timeout)
        self._closing = True
        self._wake.set()
        writer, self._writer = self._writer, None
        if not complete:
            writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        for entry in self._commits:
            if not entry.future.done():
                entry.future.set_exception(BackendUnavailableError("the manager has shut down"))
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer, self._timer_deadline = None, _FOREVER
        _release(self._barriers)
        return complete

    def _arm(self) -> None:
        if not self._timer_armed:
            self._timer_armed = True
            self._clock.call_later(self._interval, self._due)

    def _due(self) -> None:
        self._timer_armed = False
        self._flush_asked = True
        self._wake.set()

    def _give_up(self, entries: list[_Commit]) -> None:
        """Take changes back whose caller no longer waits; what was tried already stays until its fate is known."""
        left = {id(entry) for entry in entries if not entry.future.done()}
        if not left:
            return
        self._commits = [entry for entry in self._commits if entry.tried or id(entry) not in left]
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(
                    BackendUnavailableError(f"the {self._backend.name} backend did not commit in time")
                )
                # Only the first of several is awaited to its exception.
                entry.future.exception()

    def _trim_notes(self) -> None:
        """Give up the oldest finished tasks beyond the bound, but only while the backend fails."""
        if self.failing_since is None:
            return
        while len(self._notes) > _MAX_NOTES and self._ended:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            if self._notes.pop(oldest, None) is not None:
                self.dropped_history += 1

    def _take_notes(self) -> list[LiveTask]:
        """The notes to write now: all when it is time, else those of finished tasks, of which nothing will follow."""
        source = self._notes if self._flush_asked else self._ended
        taken = list(islice(source, _MAX_BATCH))
        for task_id in taken:
            self._ended.pop(task_id, None)
        return [self._notes.pop(task_id) for task_id in taken if task_id in self._notes]

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            if not (self._commits or self._flush_asked or self._ended_asked):
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            self._writing = True
            written = await self._write_once()
            self._writing = False
            if written:
                backoff = _FIRST_BACKOFF
                # A backend in memory gives nobody else a turn.
                await asyncio.sleep(0)
            else:
                if self._closing:
                    return
                await self._clock.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def _write_once(self) -> bool:
        """Write one transaction; `False` when the backend failed and the same work is to be tried again."""
        try:
            await self._before_write()
        except Exception as exc:
            self._report_failure(exc)
            return False
        commits, self._commits = self._commits[:_MAX_BATCH], self._commits[_MAX_BATCH:]
        self._in_hand = commits
        notes: list[LiveTask] = []
        logs: list[AppendLogs] = []
        barriers: list[asyncio.Future[None]] = []
        if self._flush_asked or self._ended_asked:
            notes = [task for task in self._take_notes() if _may_note(task)]
            self._ended_asked = len(self._ended) >= _MAX_BATCH
        if self._flush_asked:
            self._flush_asked = False
            logs = [AppendLogs(task_id, tuple(entries)) for task_id, entries in self._logs.items()]
            self._logs, self._log_count = {}, 0
            if not (self._commits or self._notes):
                barriers, self._barriers = self._barriers, []
            else:
                self._flush_asked = True
        changes: list[Change] = [_change_of(task) for task in notes]
        changes += [entry.change for entry in commits]
        changes += logs
        started = self._clock.monotonic()
        try:
            results = await self._backend.apply(changes) if changes else []
        except Exception as exc:
            self._observe(self._backend.name, "apply", "error", self._clock.monotonic() - started)
            self._barriers = barriers + self._barriers
            written = await self._after_failure(exc, commits, notes, logs)
            self._in_hand = []
            return written
        self._observe(self._backend.name, "apply", "ok", self._clock.monotonic() - started)
        self._recovered()
        for entry, result in zip(commits, results[len(notes) :], strict=False):
            self._settle(entry, result)
        self._in_hand = []
        for task, result in zip(notes, results, strict=False):
            task.stored = True
            if result.outcome is Outcome.STALE:
                logger.warning("history of task %s was refused: another instance owns it now", task.record.task_id)
        _release(barriers)
        return True

    def _settle(self, entry: _Commit, result: Applied) -> None:
        if entry.future.done():
            self._late(entry.change, result)
        else:
            entry.future.set_result(result)

    def _late(self, change: Change, result: Applied) -> None:
        if result.outcome is not Outcome.DUPLICATE:
            self._on_late(change, result.outcome is Outcome.STALE)

    async def _after_failure(
        self, exc: Exception, commits: list[_Commit], notes: list[LiveTask], logs: list[AppendLogs]
    ) -> bool:
        if isinstance(exc, BackendError) and not exc.transient:
            await self._one_by_one(commits, notes, logs)
            self._flush_asked = self._flush_asked or bool(self._barriers)
            return True
        self._report_failure(exc)
        # A change whose caller has given up may have been applied all the same: it stays until its fate is known.
        for entry in commits:
            entry.tried = True
        self._commits = commits + self._commits
        for task in notes:
            self._notes.setdefault(task.record.task_id, task)
            if task.record.status.finished:
                self._ended.setdefault(task.record.task_id)
        for log in logs:
            self._logs[log.task_id] = [*log.entries, *self._logs.get(log.task_id, [])]
            self._log_count += len(log.entries)
        self._trim_notes()
        self._flush_asked = self._flush_asked or bool(notes or logs or self._barriers)
        return False

    def _report_failure(self, exc: Exception) -> None:
        if not isinstance(exc, BackendError):
            logger.error("the %s backend raised an error of its driver", self._backend.name, exc_info=exc)
        if self.failing_since is None:
            self.failing_since = self._clock.monotonic()
            logger.error("the %s backend fails: %s. Trying again, with backoff.", self._backend.name, exc)

    async def _one_by_one(self, commits: list[_Commit], notes: list[LiveTask], logs: list[AppendLogs]) -> None:
        """One change of the batch is at fault: apply each alone, so that it fails alone."""
        for entry in commits:
            try:
                self._settle(entry, (await self._backend.apply([entry.change]))[0])
            except BackendError as exc:
                if exc.transient:
                    entry.tried = True
                    self._commits.append(entry)
                elif not entry.future.done():
                    entry.future.set_exception(exc)
        for task in notes:
            try:
                await self._backend.apply([_change_of(task)])
                task.stored = True
            except BackendError as exc:
                self._lose(1, task.record.task_id, exc)
        for log in logs:
            try:
                await self._backend.apply([log])
            except BackendError as exc:
                self._lose(len(log.entries), log.task_id, exc)

    def _lose(self, count: int, task_id: str, exc: BackendError) -> None:
        self.dropped_history += count
        logger.error("history of task %s could not be written and is dropped: %s", task_id, exc)

    def _recovered(self) -> None:
        if self.failing_since is not None:
            logger.warning(
                "the %s backend answers again, after %.1f s",
                self._backend.name,
                self._clock.monotonic() - self.failing_since,
            )
            self.failing_since = None


def _may_note(task: LiveTask) -> bool:
    """Whether a note may be written: never beside a durable task's own commit, which would be overwritten by it."""
    return not task.durable or task.phase is Phase.RUNNING


def _change_of(task: LiveTask) -> Change:
    """What writes the state of a task as it is now. It may go on while that is being written: a backend that found it
    finished then, and has dropped it from its history since, would refuse what is noted of its end."""
    record = task.record if task.phase is Phase.GONE else task.record.copy()
    return Update(record) if task.stored else Insert(record)


def _release(barriers: list[asyncio.Future[None]]) -> None:
    for barrier in barriers:
        if not barrier.done():
            barrier.set_result(None)
