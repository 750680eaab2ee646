"""The one writer of this process: group commit to the backend, with retries that lose nothing.

A caller that needs a durable change awaits `commit`. Changes that arrive during a transaction go into the next one
together. The history of tasks that are not persisted is noted. It is written with the next transaction or after
`snapshot_interval` at the latest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from taskflow_otel.backends.base import APPENDED, AppendSpans, Applied, Backend, Change, Insert, Outcome
from taskflow_otel.engine.ledger.backend_health import PATIENCE, BackendHealth, Observe
from taskflow_otel.engine.ledger.backlog import MAX_BATCH, Backlog
from taskflow_otel.engine.ledger.batch import Commit
from taskflow_otel.engine.ledger.deadlines import FOREVER, Deadlines
from taskflow_otel.engine.ledger.writer import Writer
from taskflow_otel.engine.live import REFUSED, LiveTask
from taskflow_otel.engine.membership import Membership
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import TURN
from taskflow_otel.runtime.retrying import retrying

_TORN_DOWN = "the event loop is being closed without shutdown() of its TaskManager"


class Ledger:
    """Group commit to one backend. Before each transaction it ensures that this instance was not declared dead."""

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
        self._commit_timeout = commit_timeout
        self._on_late: Callable[[Change, bool], None] = lambda *_: None
        self.health: BackendHealth = BackendHealth(backend.name, clock)
        """Whether writes to the backend succeed."""
        self._backlog = Backlog(clock, self.health, interval=snapshot_interval)
        self.note: Callable[[LiveTask], None] = self._backlog.note
        """Writes the current state of a task soon: the history of a task that is not persisted, or what a running
        durable task reports between its transitions (progress, the ids of its span)."""
        self._deadlines = Deadlines(
            clock,
            self._backlog.pending,
            self._give_up,
            sent=lambda entry: entry.tried or entry in self._backlog.in_hand,
            lease_holds=lambda: membership.lease_holds,
            chance=commit_timeout,
        )
        self._writer = Writer(self._backlog, backend, self.health, clock, membership, observe=observe, late=self._late)
        self._writing: asyncio.Task[None] | None = None
        self._torn_down = False

    @property
    def stalls(self) -> bool:
        """Whether the backend fails, or a transaction takes so long that the commits behind it time out."""
        return self.health.failing_since is not None or self._writer.busy_for > min(PATIENCE, self._commit_timeout)

    def connect(self, on_late: Callable[[Change, bool], None]) -> None:
        """Set the function that is called when a change was applied after its caller gave up.

        Its arguments: the change, and whether another instance has taken the task over since.
        """
        self._on_late = on_late

    def start(self) -> None:
        """Start the writer, on this event loop."""
        self._torn_down = False
        # Left from an event loop that was closed without a shutdown.
        self._deadlines.stop()
        self._writer.open()
        self._writing = asyncio.create_task(self._writer.run(), name="taskflow-ledger")
        self._writing.add_done_callback(self._writer_ended)

    async def commit(self, change: Change, *, timeout: float | None = None) -> Applied:
        """Return once `change` is durable.

        Raises `BackendUnavailableError` if that takes longer than `timeout` (default: the commit timeout), and
        `BackendError` if the backend refuses the change for good. `float("inf")` means no timeout.
        """
        entry = self.submit(change, timeout=timeout)
        try:
            return await entry.future
        except BaseException:
            self.leave(entry)
            raise

    def submit(self, change: Change, *, timeout: float | None = None) -> Commit:
        """Do what `commit` does without its coroutine: await the future of the result, and call `leave` if that raises.

        So a waiting task holds one object less, and each of its wake-ups takes one call less.
        """
        # Each persisted task submits three changes: what is made here is not in calls of its own.
        if self._torn_down:
            raise BackendUnavailableError(_TORN_DOWN)
        deadline = self._deadlines.after(self._commit_timeout if timeout is None else timeout)
        entry = Commit(change, asyncio.get_running_loop().create_future(), deadline)
        self._backlog.add(entry)
        return entry

    def leave(self, entry: Commit) -> None:
        """The caller of `submit` no longer waits."""
        self._abandon([entry])

    async def commit_all(self, changes: Sequence[Change], *, timeout: float | None = None) -> list[Applied]:
        """Return once all changes are durable; see `commit`. After an error, some of them may be durable."""
        async with self._submitted(changes, timeout) as entries:
            return [await entry.future for entry in entries]

    async def commit_each(self, changes: Sequence[Change]) -> list[Applied | BackendError]:
        """Return the result of each of some changes that do not belong together: its error, if it is refused for good.

        Raises `BackendError` if trying again can help; then some of the changes may be durable.
        """
        async with self._submitted(changes) as entries:
            return [await _result_or_refusal(entry) for entry in entries]

    @asynccontextmanager
    async def _submitted(self, changes: Sequence[Change], timeout: float | None = None) -> AsyncGenerator[list[Commit]]:
        """The commits of these changes; those that still wait at an error are withdrawn."""
        deadline = self._deadline(timeout)
        entries: list[Commit] = []
        try:
            for start in range(0, len(changes), MAX_BATCH):
                if start:
                    await asyncio.sleep(0)
                for change in changes[start : start + MAX_BATCH]:
                    entries.append(entry := self._new(change, deadline))
                    self._backlog.add(entry)
            yield entries
        except BaseException:
            self._abandon(entries)
            raise

    def _deadline(self, timeout: float | None) -> float:
        """The monotonic time at which a commit that starts now times out."""
        return self._deadlines.after(self._commit_timeout if timeout is None else timeout)

    async def commit_alone(self, change: Change) -> Applied:
        """Return once `change` is durable, however long that takes, in its own transaction.

        If it must wait for a lock, no other change does.
        """
        entry = self._new(change, FOREVER)
        self._backlog.add_apart(entry)
        try:
            return await entry.future
        except BaseException:
            self._abandon([entry])
            raise

    def _new(self, change: Change, deadline: float) -> Commit:
        if self._torn_down:
            raise BackendUnavailableError(_TORN_DOWN)
        return Commit(change, asyncio.get_running_loop().create_future(), deadline)

    def _abandon(self, entries: list[Commit]) -> None:
        """The callers of these are gone: report the changes that were applied as late."""
        self._give_up(entries)
        for entry in entries:
            if not entry.future.cancelled() and entry.future.exception() is None:
                self._late(entry.change, entry.future.result())

    def doubtful(self) -> dict[str, int]:
        """The number of published timeline lines, for each task whose last commit timed out.

        The commit was published as failed; only the backend knows whether it failed. See `LiveTasks.unpublished`.
        """
        doubts: dict[str, int] = {}
        for entry in self._backlog.pending():
            if entry.future.done() and not isinstance(entry.change, APPENDED):
                record = entry.change.record
                doubts[record.task_id] = REFUSED if isinstance(entry.change, Insert) else len(record.timeline) - 1
        return doubts

    def awaits(self, task_id: str) -> bool:
        """Whether someone waits for a change of this task, which will overwrite what was written of it before."""
        return any(
            entry.task_id == task_id and not entry.future.done() and not isinstance(entry.change, APPENDED)
            for entry in self._backlog.pending()
        )

    def rejoined(self) -> None:
        """This process has a new id: the commits under its former one get more time for their answers."""
        self._deadlines.spare()

    async def holder_of(self, idempotency_key: str) -> str | None:
        """The id of the task that holds a key; raises `BackendError`."""
        return await self._backend.holder_of(idempotency_key)

    async def holds(self, record: TaskRecord) -> bool | None:
        """Whether the last line of a record's timeline is in the ledger; another instance may own the task now.

        `None`: the ledger does not hold the task at all. Waits for the backend without a timeout.
        """
        stored = await retrying(self._clock, lambda: self._backend.get(record.task_id))
        if stored is None:
            return None
        place = len(record.timeline) - 1
        return stored.timeline[place : place + 1] == record.timeline[place:]

    def append_log(self, task_id: str, entry: LogEntry) -> None:
        """Write a log entry soon."""
        self._backlog.append_log(task_id, entry)

    def append_spans(self, spans: AppendSpans) -> None:
        """Write the spans of an attempt, in the transaction of its outcome."""
        self._backlog.append_spans(spans)

    async def flush(self, timeout: float) -> bool:
        """Write everything noted so far; return `False` if that did not end in time."""
        if not (self._backlog or self._writer.writing):
            return True
        try:
            await asyncio.wait_for(self._backlog.flush(), timeout)
        except TimeoutError:
            return False
        return True

    async def close(self, timeout: float, *, while_answering: float = 0.0) -> bool:
        """Flush and stop the writer; return `False` if something could not be written in time.

        A backend that answered within `timeout` gets `while_answering` more seconds.
        """
        if self._writing is None:
            return True
        answers = self.health.answers
        complete = await self.flush(timeout)
        if not complete and answers != self.health.answers:
            complete = await self.flush(while_answering)
        self._writer.close()
        writing, self._writing = self._writing, None
        if not complete:
            writing.cancel()
        # A writer that hangs in the backend's driver is abandoned.
        await asyncio.wait({writing}, timeout=TURN if not complete else None)
        for entry in self._backlog.pending():
            if not entry.future.done():
                entry.future.set_exception(BackendUnavailableError("the manager has shut down"))
        self._deadlines.stop()
        self._backlog.release_all()
        return complete

    def _writer_ended(self, writing: asyncio.Task[None]) -> None:
        """Fail the waiting commits if the writer ended without `close`: the code that closes the loop awaits them."""
        if self._writing is not writing:
            return
        self._writing, self._torn_down = None, True
        for entry in self._backlog.pending():
            if not entry.future.done():
                entry.future.set_exception(BackendUnavailableError(_TORN_DOWN))
                entry.future.exception()
        self._backlog.clear()

    def _give_up(self, entries: list[Commit]) -> None:
        """Withdraw changes whose caller no longer waits; one that was tried stays until its outcome is known."""
        left = [entry for entry in entries if not entry.future.done()]
        if not left:
            return
        self._backlog.take_back(left)
        for entry in left:
            entry.future.set_exception(
                BackendUnavailableError(f"the {self._backend.name} backend did not commit in time")
            )
            entry.future.exception()  # only the first of several is awaited to its exception

    def _late(self, change: Change, result: Applied) -> None:
        """A change was applied, or another instance owns its task, after its caller gave up."""
        if result.outcome is not Outcome.DUPLICATE:
            self._on_late(change, result.outcome is Outcome.STALE)


async def _result_or_refusal(entry: Commit) -> Applied | BackendError:
    try:
        return await entry.future
    except BackendError as exc:
        if exc.transient:
            raise
        return exc
