"""Tasks that are added in the caller's own transaction: they exist exactly if that commits, and start right after.

A task is inserted without an owner, as one of the pool. So nothing is lost if this process ends between the commit and
its notice of it: another instance claims the task. Whether a transaction has committed is read from the ledger. The
end of a transaction is only a reason to look there, so a notice that is missing or wrong does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any

from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.pool import POOL, Pooled
from taskflow_otel.backends.transactions import Joined, KeepsTransactions, Transaction, Written
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.queues import Queues
from taskflow_otel.errors import BackendError, ConfigurationError, TaskflowError, TaskNotFoundError, TaskStateError
from taskflow_otel.model.cipher import seal_of
from taskflow_otel.model.enqueue import EnqueueOptions
from taskflow_otel.model.objective import due_of
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

POLL = 1.0
"""Seconds between two looks at the open transactions, without any news of them."""
_FIRST_WAIT = 0.001
"""Seconds after the request for a commit until the first look for its end; each further wait is twice as long."""


class _Open:
    """A task in a transaction that had not ended when it was last looked at."""

    __slots__ = ("absent_since", "by", "doubt", "holder", "task", "transaction")

    def __init__(self, task: LiveTask, doubt: ExitStack) -> None:
        self.task = task
        self.doubt = doubt
        """While it is open, the task counts as unpublished."""
        self.transaction: Transaction | None = None
        self.by: asyncio.Task[Any] | None = None
        """The asyncio task whose transaction it is, if that keeps all others from writing."""
        self.holder: str | None = None
        """The task that holds its key, found when the transaction was about to commit."""
        self.absent_since: float | None = None
        """When its commit had no answer, and its row was not there."""

    @property
    def over(self) -> bool:
        return self.transaction is not None and self.transaction.over


class Transactions(Service):
    """Adds tasks in transactions of callers, and lets them start after the commit.

    A task of a shared queue stays in the pool, any other is claimed at once. `stop` of `connect` cancels a task whose
    cancellation was asked for while nobody owned it.
    """

    def __init__(
        self,
        backend: Backend,
        builder: TaskBuilder,
        queues: Queues,
        intake: Intake,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        clock: Clock,
        membership: Membership,
        life: Life,
        background: OwnedTasks,
    ) -> None:
        super().__init__("transactions", POLL, clock)
        self._backend = backend
        self._store = backend.transaction_store if isinstance(backend, KeepsTransactions) else None
        self._builder = builder
        self._queues = queues
        self._intake = intake
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._clock = clock
        self._membership = membership
        self._life = life
        self._background = background
        self._stop_task: Callable[[LiveTask, Reason], Awaitable[None]] = _nobody
        self._look: Callable[[], None] = _nothing
        self._given: Callable[[Sequence[TaskRecord]], None] = _nothing_given
        self.open: dict[str, _Open] = {}
        """The tasks, by id, in transactions that have not ended."""
        # `add_task` runs in request threads too.
        self._lock = threading.Lock()
        self._one_at_a_time = asyncio.Lock()
        self._rung = False
        self._following = False

    def connect(
        self,
        stop: Callable[[LiveTask, Reason], Awaitable[None]],
        look: Callable[[], None],
        given: Callable[[Sequence[TaskRecord]], None],
    ) -> None:
        """Set what cancels a task, what looks for work in the pool, and what gets the tasks that came into it."""
        self._stop_task = stop
        self._look = look
        self._given = given

    async def start(self) -> None:
        """See `Service`."""
        self._one_at_a_time = asyncio.Lock()
        self._rung = self._following = False
        for one in self._all():
            # Of an earlier run of this engine; the pool has what was committed.
            self._close(one)
        if self._store is not None:
            self._store.watch(self._ring)
            await super().start()

    async def stop(self) -> None:
        """Stop; what was committed in time is published, and stays in the pool."""
        await super().stop()
        try:
            await self._settle()
        except BackendError as exc:
            logger.warning("the last transactions could not be looked up (%s); the pool has their tasks", exc)

    async def tick(self) -> None:
        """Look at the open transactions."""
        await self._settle()

    def add(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> str:
        """Insert a task in the transaction of `options.session`; return its id, or that of the holder of its key.

        In an `AsyncSession`, it is inserted when that commits. Callable from any thread. Raises the errors of
        `Door.add`, `ConfigurationError` for a session that cannot be used, and the errors of SQLAlchemy.
        """
        joined = self._join(options)
        if joined.asynchronous:
            one = self._take(func, args, kwargs, options)

            def done(written: Written) -> None:
                one.holder = written.holder

            return self._written(one, lambda: joined.insert_at_commit(*self._row(one), done), None)
        if self._life.here and self._store is not None and (self._store.exclusive or options.idempotency_key):
            raise ConfigurationError(
                "a synchronous session would block the event loop here, while a write that waits for the loop may hold "
                "the lock that the session needs. Use a `def` route, an AsyncSession, or "
                "`await task_manager.enqueue(..., session=session)`."
            )
        return self._insert(func, args, kwargs, options, joined)

    async def enqueue(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> str:
        """Do the same for any session, at once. A synchronous session is used in a thread."""
        joined = self._join(options)
        by = asyncio.current_task()
        if not joined.asynchronous:
            # The event loop must stay free: a write that waits for it may hold the lock that the session needs.
            return await asyncio.to_thread(self._insert, func, args, kwargs, options, joined, by)
        one = self._take(func, args, kwargs, options)
        try:
            written = await joined.insert_soon(*self._row(one))
        except BaseException as exc:
            self._refused(one, exc)
            raise
        return self._keep(one, written, by)

    async def get(self, task_id: str, session: object) -> TaskRecord:
        """A task as a caller's transaction sees it; raises `TaskNotFoundError`, and the errors of `enqueue`."""
        record = await self._joined(session).find(task_id, self._membership.instance.instance_id)
        if record is None:
            raise TaskNotFoundError(task_id)
        return record

    async def cancel(self, task_id: str, session: object) -> TaskRecord:
        """Ask for the cancellation of a task; it happens if the caller's transaction commits.

        Raises `TaskNotFoundError`, `TaskStateError` if it has finished, and the errors of `enqueue`.
        """
        joined = self._joined(session)
        if not await joined.request_cancel(task_id, self._membership.instance.instance_id):
            record = await self.get(task_id, session)
            raise TaskStateError(f"task {task_id} is {record.status} already and cannot be cancelled")
        return await self.get(task_id, session)

    def refuse_to_wait(self) -> None:
        """Raise `ConfigurationError` if the running asyncio task holds the lock for which a write would wait."""
        if self._store is None or not self._store.exclusive:
            return
        current = asyncio.current_task()
        if any(one.by is current and not one.over for one in self._all()):
            raise ConfigurationError(
                "a transaction of this code holds the write lock of the SQLite file, and this task would wait for it: "
                "a deadlock. Commit first, or add this task with the same session=."
            )

    def noticed(self, task_id: str) -> None:
        """The pool shows that a transaction has committed: publish its task, which was claimed."""
        if (one := self._forget(task_id)) is not None:
            self._published(one)

    def _join(self, options: EnqueueOptions) -> Joined:
        if options.eager:
            raise ConfigurationError("eager=True starts a task at once, but with session= it starts after the commit")
        return self._joined(options.session)

    def _joined(self, session: object) -> Joined:
        self._life.require_running()
        if self._store is None:
            raise ConfigurationError(
                f"session= needs a backend on a SQL database, where the task is a row; this one is {self._backend.name}"
            )
        return self._store.join(session)

    def _insert(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: EnqueueOptions,
        joined: Joined,
        by: asyncio.Task[Any] | None = None,
    ) -> str:
        one = self._take(func, args, kwargs, options)
        try:
            written = joined.insert(*self._row(one))
        except BaseException as exc:
            self._refused(one, exc)
            raise
        return self._keep(one, written, by)

    def _take(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> _Open:
        task = self._builder.build(func, args, kwargs, options, persist=True)
        record = task.record
        self._intake.take_place(self._queues.get(record.queue), task, enforce=record.run_at is None)
        self._lifecycle.created(record, due_of(task.definition.config.slo, record))
        doubt = ExitStack()
        doubt.enter_context(self._tasks.unpublished_while(record.task_id))
        return _Open(task, doubt)

    def _row(self, one: _Open) -> tuple[TaskRecord, Pooled, str]:
        record = one.task.record
        pooled = Pooled(
            record.task_id,
            self._queues.of(one.task).name,
            record.priority,
            record.func_name,
            seal_of(record.payload),
            record.created_at,
            record.run_at or record.created_at,
        )
        return record, pooled, self._membership.instance.instance_id

    def _written(self, one: _Open, join: Callable[[], Transaction], by: asyncio.Task[Any] | None) -> str:
        try:
            one.transaction = join()
        except BaseException as exc:
            self._refused(one, exc)
            raise
        one.by = by if self._store is not None and self._store.exclusive else None
        with self._lock:
            self.open[one.task.id] = one
        return one.task.id

    def _keep(self, one: _Open, written: Written, by: asyncio.Task[Any] | None) -> str:
        if written.holder is None:
            return self._written(one, lambda: written.transaction, by)
        self._life.call_on_loop(self._duplicate, one, written.holder)
        return written.holder

    def _refused(self, one: _Open, exc: BaseException) -> None:
        if isinstance(exc, TaskflowError):
            self._life.call_on_loop(self._rejected, one, Reason.COMMIT_FAILED, str(exc))
        else:
            # An error of the caller's transaction, which cannot commit any more, or not with this task.
            self._life.call_on_loop(self._rejected, one, Reason.ROLLED_BACK)

    def _all(self) -> list[_Open]:
        with self._lock:
            return list(self.open.values())

    def _forget(self, task_id: str) -> _Open | None:
        with self._lock:
            return self.open.pop(task_id, None)

    def _close(self, one: _Open) -> None:
        self._forget(one.task.id)
        self._queues.of(one.task).leave_place(one.task)
        one.doubt.close()

    def _rejected(self, one: _Open, reason: Reason, why: str | None = None) -> None:
        self._close(one)
        self._lifecycle.rejected(one.task, reason, error=why, history=False)
        # Nobody may find a task that does not exist.
        self._tasks.forget_deleted([one.task.id])

    def _duplicate(self, one: _Open, holder: str) -> None:
        self._close(one)
        # There is no row of this id; the record is written as history.
        one.task.durable = False
        self._lifecycle.rejected(one.task, Reason.DUPLICATE, duplicate_of=holder)

    def _published(self, one: _Open) -> None:
        """Publish a task that another part, or another instance, owns now, or nobody yet."""
        self._lifecycle.enqueued(one.task)
        self._close(one)
        self._lifecycle.given(one.task)

    def _ring(self) -> None:
        """A transaction may have ended. Callable from any thread."""
        self._life.call_on_loop(self._follow_soon)

    def _follow_soon(self) -> None:
        self._rung = True
        if not self._following and self.open and self._life.running:
            self._following = True
            self._background.own(self._follow())

    async def _follow(self) -> None:
        """Look until each transaction whose commit was asked for has ended."""
        wait = 0.0
        try:
            while wait < POLL:
                self._rung = False
                # One turn of the event loop, so that transactions that end together are looked up together.
                await asyncio.sleep(0)
                await self._settle()
                if self._rung:
                    wait = 0.0
                elif any(one.transaction is not None and _commits(one.transaction) for one in self._all()):
                    wait = max(_FIRST_WAIT, 2 * wait)
                    await self._clock.sleep(wait)
                else:
                    return
        except BackendError:
            # The next round reports it, and tries again.
            return
        finally:
            self._following = False

    async def _settle(self) -> None:
        """Find out which of the transactions that are over have committed."""
        async with self._one_at_a_time:
            ended = [one for one in self._all() if one.over]
            if ended:
                await self._settle_ended(ended)

    async def _settle_ended(self, ended: Sequence[_Open]) -> None:
        assert self._store is not None
        await self._membership.ensure_lease()
        owner, running = self._membership.instance.instance_id, self._life.running
        ids = {one.task.id for one in ended if one.holder is None}
        mine = [one.task.id for one in ended if running and one.holder is None and not self._queues.of(one.task).shared]
        claimed = {found.record.task_id: found.record for found in await self._store.claim(owner, mine)} if mine else {}
        found = await self._backend.get_all(ids - claimed.keys()) if ids - claimed.keys() else {}
        if owner == self._membership.instance.instance_id and self._life.running:
            # Also those of a claim whose answer was lost.
            claimed |= {task_id: record for task_id, record in found.items() if record.instance == owner}
        else:
            # They will be taken over.
            found, claimed = found | claimed, {}
        ready: list[LiveTask] = []
        for one in ended:
            task_id = one.task.id
            if one.holder is not None:
                self._duplicate(one, one.holder)
            elif task_id in claimed and self._forget(task_id) is not None:
                ready.append(self._own(one, claimed[task_id]))
            elif task_id in found:
                self.noticed(task_id)
            elif task_id not in claimed and self._is_rolled_back(one):
                self._rejected(one, Reason.ROLLED_BACK)
        if found:
            self._look()
            self._given([record for record in found.values() if record.instance == POOL])
        self._intake.hand_over([task for task in ready if not task.record.cancel_requested])
        for task in ready:
            if task.record.cancel_requested:
                await self._stop_task(task, Reason.CANCELLED)

    def _own(self, one: _Open, stored: TaskRecord) -> LiveTask:
        """Publish a task that this instance owns now, as it owns any task that it has enqueued."""
        task, record = one.task, one.task.record
        self._lifecycle.enqueued(task)
        record.instance, record.token = stored.instance, stored.token
        record.cancel_requested = stored.cancel_requested
        task.stored = True
        self._tasks.add(task)
        if record.idempotency_key is not None:
            self._tasks.hold_key(record.idempotency_key, record.task_id)
        one.doubt.close()
        return task

    def _is_rolled_back(self, one: _Open) -> bool:
        """Whether a task that has no row will never have one."""
        if one.transaction is None or not one.transaction.asked_to_commit:
            return True
        # The connection may have broken during the commit, which the database may still finish.
        now = self._clock.monotonic()
        one.absent_since = now if one.absent_since is None else one.absent_since
        return now - one.absent_since >= POLL


def _commits(transaction: Transaction) -> bool:
    return transaction.asked_to_commit and not transaction.over


async def _nobody(task: LiveTask, _: Reason) -> None:
    raise RuntimeError(f"task {task.id} was committed before the part that cancels tasks was connected")


def _nothing() -> None:
    """The default before `connect`."""


def _nothing_given(_: Sequence[TaskRecord]) -> None:
    """The default before `connect`."""
