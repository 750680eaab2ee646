"""The one writer of this process: group commit towards the backend, with retries that lose nothing.

Whoever needs a change to be durable awaits `commit`; changes that arrive while a transaction is under way go
into the next one together. History of tasks that are not persisted is noted, and written with the
next transaction or after `snapshot_interval`, whichever comes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from taskflow_otel.backends.base import AppendLogs, Applied, Backend, Change, Insert, Outcome, Update
from taskflow_otel.engine.ledger.backend_health import PATIENCE, BackendHealth, Observe
from taskflow_otel.engine.ledger.batch import Batch, Commit, Item, Lines, Note, judged, reduce, release
from taskflow_otel.engine.ledger.deadlines import FOREVER, Deadlines
from taskflow_otel.engine.ledger.notes import NotedLines, Notes
from taskflow_otel.engine.live import REFUSED, LiveTask
from taskflow_otel.engine.membership import Membership
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.retrying import FIRST_BACKOFF, LONGEST_BACKOFF, retrying

logger = logging.getLogger("taskflow_otel.ledger")

_MAX_BATCH = 500
"""Changes in one transaction: more would keep the event loop for too long while they are turned into rows."""
_MAX_NOTES = 50_000
"""Notes that may wait for a backend that is down; beyond it the oldest of finished tasks are dropped and counted."""
_TORN_DOWN = "the event loop is being closed without shutdown() of its TaskManager"
_TURN = 0.1
"""Seconds that the writer has to take its cancellation in."""


class Ledger:
    """Group commit over one backend. Before each transaction it makes sure that others know this instance as alive."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        membership: Membership,
        *,
        snapshot_interval: float,
        commit_timeout: float,
        observe: Observe,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._interval = snapshot_interval
        self._commit_timeout = commit_timeout
        self._observe = observe
        self._membership = membership
        self._on_late: Callable[[Change, bool], None] = lambda *_: None
        self._commits: list[Commit] = []
        self._in_hand: list[Commit] = []
        """Part of the transaction under way."""
        self._apart: deque[Batch] = deque()
        """Parts of transactions that failed, to be tried beside the others."""
        self._turn_of_apart = False
        self._apart_barriers: list[asyncio.Future[None]] = []
        self._apply_began = 0.0
        self._deadlines = Deadlines(clock, self._pending, self._give_up)
        self._notes = Notes()
        self._ended_asked = False
        self._lines = NotedLines()
        self._wake = asyncio.Event()
        self._flush_asked = False
        self._barriers: list[asyncio.Future[None]] = []
        self._writing = False
        self._write_began = 0.0
        self._writer: asyncio.Task[None] | None = None
        self._torn_down = False
        self._closing = False
        self._timer_armed = False
        self.health = BackendHealth(backend.name, clock)
        """How the backend takes what is written."""

    @property
    def stalls(self) -> bool:
        """Whether the backend fails, or has had a transaction for so long that commits time out behind it."""
        waits = self._clock.monotonic() - self._write_began if self._writing else 0.0
        return self.health.failing_since is not None or waits > min(PATIENCE, self._commit_timeout)

    def connect(self, on_late: Callable[[Change, bool], None]) -> None:
        """Have `on_late` called with the change of a commit whose caller had given up on it, when it was applied after
        all, and with whether that has been overtaken by another instance since."""
        self._on_late = on_late

    def start(self) -> None:
        """Start the writer, on this event loop."""
        self._wake = asyncio.Event()
        self._closing = self._timer_armed = self._torn_down = self._writing = False
        # Of a life whose event loop was closed without a shutdown.
        self._deadlines.stop()
        self._writer = asyncio.create_task(self._run(), name="taskflow-ledger")
        self._writer.add_done_callback(self._writer_ended)

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
        entries: list[Commit] = []
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
        return self._deadlines.after(self._commit_timeout if timeout is None else timeout)

    async def commit_alone(self, change: Change) -> Applied:
        """Return once `change` is durable, in a transaction of its own: whatever it waits for, it waits for alone."""
        entry = self._new(change, FOREVER)
        self._apart.append(Batch([entry], True))
        self._wake.set()
        try:
            return await entry.future
        except BaseException:
            self._abandon([entry])
            raise

    def _submit(self, change: Change, deadline: float) -> Commit:
        entry = self._new(change, deadline)
        self._commits.append(entry)
        self._wake.set()
        return entry

    def _new(self, change: Change, deadline: float) -> Commit:
        if self._torn_down:
            raise BackendUnavailableError(_TORN_DOWN)
        return Commit(change, asyncio.get_running_loop().create_future(), deadline)

    def _pending(self) -> list[Commit]:
        apart = (item for batch in self._apart for item in batch.items if isinstance(item, Commit))
        return [*self._in_hand, *self._commits, *apart]

    def _abandon(self, entries: list[Commit]) -> None:
        """Nobody awaits these any more: what was applied is to be set right."""
        self._give_up(entries)
        for entry in entries:
            if not entry.future.cancelled() and entry.future.exception() is None:
                self._late(entry.change, entry.future.result())

    def doubtful(self) -> dict[str, int]:
        """How many lines of its timeline are published, for each task whose last commit was given up on.

        It was published as failed; only the backend knows whether it was. See `LiveTasks.unpublished`.
        """
        doubts: dict[str, int] = {}
        for entry in self._pending():
            if entry.future.done() and not isinstance(entry.change, AppendLogs):
                record = entry.change.record
                doubts[record.task_id] = REFUSED if isinstance(entry.change, Insert) else len(record.timeline) - 1
        return doubts

    async def holds(self, record: TaskRecord) -> bool:
        """Whether the last line of a record's timeline is in the ledger, whoever owns the task now.

        Waits for the backend for as long as it takes.
        """
        stored = await retrying(self._clock, lambda: self._backend.get(record.task_id))
        place = len(record.timeline) - 1
        return stored is not None and stored.timeline[place : place + 1] == record.timeline[place:]

    def note(self, task: LiveTask) -> None:
        """Have the present state of a task written before long: history of one that is not persisted, or what a
        running durable task says between its transitions (progress, the ids of its span)."""
        self._notes.add(task)
        if self._notes.ended >= _MAX_BATCH and not self._ended_asked:
            self._ended_asked = True
            self._wake.set()
        self._trim()
        self._arm()

    def append_log(self, task_id: str, entry: LogEntry) -> None:
        """Have a log entry written before long."""
        self._lines.add(task_id, entry)
        self._trim()
        self._arm()

    def _trim(self) -> None:
        # One that answers is given everything.
        if self.health.failing_since is not None:
            self.health.dropped_history += self._notes.trim(_MAX_NOTES) + self._lines.trim(_MAX_NOTES)

    async def flush(self, timeout: float) -> bool:
        """Write everything noted so far; `False` when that did not end in time."""
        if not (self._commits or self._notes or self._lines or self._writing or self._apart):
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

    async def close(self, timeout: float, *, while_answering: float = 0.0) -> bool:
        """Flush and stop the writer; `False` when something could not be written in time.

        A backend that has answered within `timeout` gets `while_answering` seconds more.
        """
        if self._writer is None:
            return True
        answers = self.health.answers
        complete = await self.flush(timeout)
        if not complete and answers != self.health.answers:
            complete = await self.flush(while_answering)
        self._closing = True
        self._wake.set()
        writer, self._writer = self._writer, None
        if not complete:
            writer.cancel()
        # One that hangs in its backend's driver is left behind.
        await asyncio.wait({writer}, timeout=_TURN if not complete else None)
        for entry in self._pending():
            if not entry.future.done():
                entry.future.set_exception(BackendUnavailableError("the manager has shut down"))
        self._deadlines.stop()
        release(self._barriers + self._apart_barriers)
        return complete

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        """Fail what waits for a writer that nobody has closed: whoever tears the event loop down waits for them."""
        if self._writer is not writer:
            return
        self._writer, self._torn_down = None, True
        for entry in self._pending():
            if not entry.future.done():
                entry.future.set_exception(BackendUnavailableError(_TORN_DOWN))
                entry.future.exception()
        self._in_hand, self._commits = [], []
        self._apart.clear()
        release(self._barriers + self._apart_barriers)
        self._barriers, self._apart_barriers = [], []

    def _arm(self) -> None:
        if not self._timer_armed:
            self._timer_armed = True
            self._clock.call_later(self._interval, self._due)

    def _due(self) -> None:
        self._timer_armed = False
        self._flush_asked = True
        self._wake.set()

    def _give_up(self, entries: list[Commit]) -> None:
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
                entry.future.exception()  # only the first of several is awaited to its exception

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            batch = self._next_batch()
            if batch is None:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            self._writing, self._write_began = True, self._clock.monotonic()
            written = await self._write_once(batch)
            self._writing = False
            if written:
                backoff = FIRST_BACKOFF
                # A backend in memory gives nobody else a turn.
                await asyncio.sleep(0)
            else:
                if self._closing:
                    return
                await self._clock.sleep(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _next_batch(self) -> Batch | None:
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
        commits, self._commits = self._commits[:_MAX_BATCH], self._commits[_MAX_BATCH:]
        items: list[Item] = []
        batch = Batch([])
        logs: list[Item] = []
        if self._flush_asked or self._ended_asked:
            # Of tasks that go on, more will follow: they are written when it is time.
            items += [Note(task) for task in self._notes.take(_MAX_BATCH, only_ended=not self._flush_asked)]
            self._ended_asked = self._notes.ended >= _MAX_BATCH
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

    async def _write_once(self, batch: Batch) -> bool:
        """Write one transaction; `False` when the backend failed and the same work is to be tried again."""
        batch.items = [item for item in batch.items if not isinstance(item, Note) or item.allowed]
        self._in_hand = [item for item in batch.items if isinstance(item, Commit)]
        try:
            await self._membership.ensure_lease()
        except Exception as exc:
            self.health.failed(exc)
            self._put_back(batch)
            self._in_hand = []
            return False
        try:
            results = await self._apply([item.change for item in batch.items])
        except Exception as exc:
            written = await self._after_failure(exc, batch)
        else:
            self._accept(batch.items, results)
            written = True
        self._in_hand = []
        if written:
            self._apart_barriers += batch.barriers
            if not self._apart:
                release(self._apart_barriers)
                self._apart_barriers = []
        return written

    async def _apply(self, changes: list[Change]) -> list[Applied]:
        if not changes:
            return []
        started = self._apply_began = self._clock.monotonic()
        outcome = "error"
        try:
            results = await self._backend.apply(changes)
            outcome = "ok"
        finally:
            self._observe(self._backend.name, "apply", outcome, self._clock.monotonic() - started)
        self.health.answered()
        return results

    def _accept(self, items: Sequence[Item], results: Sequence[Applied]) -> None:
        for item, result in zip(items, results, strict=True):
            match item:
                case Commit():
                    self._settle(item, result)
                case Note(task):
                    task.stored = True
                    if result.outcome is Outcome.STALE:
                        logger.warning(
                            "history of task %s was refused: another instance owns it now", task.record.task_id
                        )

    def _settle(self, entry: Commit, result: Applied) -> None:
        if entry.future.done():
            self._late(entry.change, result)
        else:
            entry.future.set_result(result)

    def _late(self, change: Change, result: Applied) -> None:
        if result.outcome is not Outcome.DUPLICATE:
            self._on_late(change, result.outcome is Outcome.STALE)

    async def _after_failure(self, exc: Exception, batch: Batch) -> bool:
        """Divide the batch where a part of it may succeed; `False` when all of it is to be tried again."""
        error = judged(exc)
        # A change whose caller has given up may have been applied all the same: it stays until its fate is known.
        for item in batch.items:
            if isinstance(item, Commit):
                item.tried = True
        if error is None or not error.divisible:
            self.health.failed(exc)
            self._put_back(batch)
            return False
        if error.transient:
            self.health.held(error, self._apply_began)
        if halves := batch.halves():
            self._apart.extendleft(reversed(halves))
        else:
            await self._one_by_one(batch, error)
        return True

    def _put_back(self, batch: Batch) -> None:
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
        self._trim()
        self._flush_asked = self._flush_asked or history or bool(self._barriers)

    async def _one_by_one(self, batch: Batch, error: BackendError) -> None:
        """The changes of one task, which cannot be written together: what is at fault fails alone, in its turn."""
        items, known = deque(batch.items), error if len(batch.items) == 1 else None
        while items:
            item = items[0]
            try:
                if known is not None:
                    raise known
                self._accept([item], await self._apply([item.change]))
            except Exception as exc:
                known, verdict = None, judged(exc)
                if verdict is None or verdict.transient:
                    self._set_apart(batch, list(items), exc)
                    return
                rest = self._refused(item, verdict)
                if rest is None:
                    self._set_apart(batch, list(items), verdict)
                    return
                items.popleft()
                items.extendleft(reversed(rest))
            else:
                items.popleft()

    def _set_apart(self, batch: Batch, items: list[Item], exc: Exception) -> None:
        if not batch.backoff:
            logger.warning(
                "what is to be stored of task %s waits, and the others do not wait for it: %s", items[0].task_id, exc
            )
        backoff = min(max(batch.backoff * 2, FIRST_BACKOFF), LONGEST_BACKOFF)
        self._apart.append(Batch(items, True, self._clock.monotonic() + backoff, backoff))
        self._clock.call_later(backoff, self._wake.set)

    def _refused(self, item: Item, error: BackendError) -> list[Item] | None:
        """What is left to be written of a change that the backend refuses for good; `None` where that never ends."""
        match item:
            case Commit(Update(record)):
                if not reduce(item, str(error)):
                    return None
                logger.error("what became of task %s is stored without its texts: %s", record.task_id, error)
                return [item]
            case Commit(future=future):
                if not future.done():
                    future.set_exception(error)
            case Note(task):
                self.health.lost(1, task.record.task_id, error)
            case Lines(log) if len(log.entries) > 1:
                middle = len(log.entries) // 2
                return [Lines(AppendLogs(log.task_id, part)) for part in (log.entries[:middle], log.entries[middle:])]
            case Lines(log):
                self.health.lost(1, log.task_id, error)
        return []
