"""The one door: every task, whatever made it, is built, committed and handed over here."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from taskflow_otel.backends.base import AppendLogs, Applied, Change, Insert, Outcome, Update
from taskflow_otel.engine.attempt import SHUTDOWN, TAKEN_OVER
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.executors.process_protocol import pack_call
from taskflow_otel.engine.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle, first_reason
from taskflow_otel.engine.live import REFUSED, LiveTask, LiveTasks
from taskflow_otel.engine.phase import Phase, Step
from taskflow_otel.engine.queues import Queue, Queues
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry, refuse_ambiguous
from taskflow_otel.errors import (
    BackendError,
    ConfigurationError,
    PersistenceError,
    QueueFullError,
    StaleTokenError,
    TaskArgumentError,
)
from taskflow_otel.model.cipher import PayloadCipher
from taskflow_otel.model.enqueue import NO_OPTIONS, EnqueueOptions, checked_key, checked_moment, checked_tags
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.options import checked_priority, flag, seconds
from taskflow_otel.model.record import DEFAULT_PRIORITY, DEFAULT_QUEUE, TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import TaskTrace
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import in_slices
from taskflow_otel.runtime.timers import Timers

_SLICE = 100
"""Tasks handled in one callback of the event loop before others get their turn."""


class Created(NamedTuple):
    """The result of `Intake.create`: the id, and the new task unless the id is that of an earlier one."""

    task_id: str
    task: LiveTask | None


class Claimed(NamedTuple):
    """The result of `Intake.claim`: the record as it is now, and whether it is new; if not, who was first."""

    record: TaskRecord
    new: bool
    first: str | None


class Intake:
    """Builds tasks (from any thread), commits them and hands them to the dispatcher (on the loop).

    In three steps, because a request stands between them: `create` when a route adds the task, `commit` before
    the response's first byte, `release` after its last. `enqueue`, retries and schedules take them in one go.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        queues: Queues,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        ledger: Ledger,
        dispatcher: Dispatcher,
        timers: Timers,
        clock: Clock,
        *,
        cipher: PayloadCipher | None,
        durable: bool,
        persist_all: bool,
        instance_id: Callable[[], str],
        lease_holds: Callable[[], bool],
        on_loop: Callable[..., None],
    ) -> None:
        self._registry = registry
        self._queues = queues
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._timers = timers
        self._clock = clock
        self._cipher = cipher
        self._durable = durable
        self._persist_all = persist_all
        self._instance_id = instance_id
        self._lease_holds = lease_holds
        self._on_loop = on_loop
        self._templates: dict[TaskDefinition, TaskRecord] = {}

    def create(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: EnqueueOptions = NO_OPTIONS,
        *,
        source: str = "manual",
    ) -> Created:
        """Build a task. Callable from any thread.

        Raises `TaskArgumentError`, `UnknownQueueError`, `QueueFullError` or `ConfigurationError`.
        """
        definition, args, kwargs = self._registry.resolve(func, args, kwargs)
        if definition.codec is None and options is not NO_OPTIONS:
            refuse_ambiguous(func, options)
        persisted = self._persists(definition)
        payload, in_memory = self._encode(definition, args, kwargs, persisted=persisted)
        if definition.config.executor == "process":
            # What cannot be sent is refused in the hands of the caller, and not when it runs.
            args, kwargs = (pack_call(definition.func, args, kwargs, payload),), {}
            # That is a snapshot already.
            in_memory = in_memory or self._cipher is None
        record = self._record(definition, options, persisted=persisted, payload=payload, source=source)
        task = LiveTask(
            record,
            definition,
            args if in_memory else None,
            kwargs if in_memory else None,
            contextvars.copy_context(),
            durable=persisted or record.idempotency_key is not None,
        )
        if record.run_at is not None and options.delay is not None:
            # A delay is a length of time: a clock that is set moves `run_at` alone, which is for the next process.
            task.ready_at = self._clock.monotonic() + seconds("delay", options.delay)
        return self._admit(task)

    def recreate(self, original: TaskRecord, definition: TaskDefinition, *, keep_key: bool) -> Created:
        """Build the task that retries a finished one, from its stored arguments."""
        options = EnqueueOptions(
            idempotency_key=original.idempotency_key if keep_key else None,
            tags=original.tags,
            priority=original.priority,
            queue=original.queue,
        )
        persisted = self._persists(definition)
        record = self._record(definition, options, persisted=persisted, payload=original.payload, source="retry")
        record.retry_of = original.task_id
        durable = persisted or record.idempotency_key is not None
        return self._admit(LiveTask(record, definition, None, None, contextvars.copy_context(), durable=durable))

    async def claim(
        self,
        definition: TaskDefinition,
        payload: str,
        options: EnqueueOptions,
        *,
        once: str | None,
        source: str = "scheduled",
        task_id: str | None = None,
        blocked_by: str | None = None,
    ) -> Claimed:
        """Make a task from stored arguments, unless the name `once` has been used: commit it, then let it start.

        It is kept like a persisted task wherever the backend keeps anything, and shown only once it is known to be the
        first of its name. The commit waits for the backend for as long as it takes. With `blocked_by`, the id of a
        task, it is stored as `REJECTED` (`overlap`). Raises `QueueFullError`, `UnknownQueueError`, and `BackendError`
        when the backend refuses the task for good.
        """
        record = self._record(definition, options, persisted=self._durable, payload=payload, source=source)
        task = LiveTask(record, definition, None, None, None, durable=True)
        queue = self._queues.get(record.queue)
        if blocked_by is None:
            self._take_place(queue, task, enforce=True)
        # Not before: what a full queue refuses is a task of its own in the history.
        record.task_id = task_id or record.task_id
        self._lifecycle.begin(record)
        if blocked_by is not None:
            self._lifecycle.refuse(record, "overlap", duplicate_of=blocked_by)
        with self._tasks.untold(record.task_id):
            try:
                applied = await self._ledger.commit(Insert(record, once), timeout=float("inf"))
                stale = applied.outcome is Outcome.STALE
                new = applied.outcome is Outcome.APPLIED or (stale and await self._ledger.holds(record))
            except BaseException:
                queue.leave_place(task)
                raise
            if not new:
                queue.leave_place(task)
                return Claimed(record, False, applied.duplicate_of)
            self._show_claimed(task)
        # Declared dead meanwhile, this process leaves it to whoever takes over the tasks of its former self.
        if stale or record.instance != self._instance_id():
            self._let_go(task)
        else:
            self.release([task])
        return Claimed(record, True, None)

    def _show_claimed(self, task: LiveTask) -> None:
        record = task.record
        task.stored = True
        self._lifecycle.announce(record)
        if record.status.finished:
            task.durable = False
            self._lifecycle.show_refused(task)
            return
        if record.idempotency_key is not None:
            self._tasks.hold_key(record.idempotency_key, record.task_id)
        self._tasks.add(task)
        self._lifecycle.enqueued(task)

    def encode(self, definition: TaskDefinition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The payload of arguments that are to be stored, ciphertext where encryption is on.

        Raises `TaskArgumentError`, and `PersistenceError` for an undecorated function.
        """
        if definition.codec is None:
            raise PersistenceError(
                f"{definition.name} cannot be scheduled: only a declared task can be found again when it is due. "
                "Decorate it with @task_manager.task()."
            )
        payload = definition.codec.encode(args, kwargs)
        return payload if self._cipher is None else self._cipher.encrypt(payload)

    def decode(self, task: LiveTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a task that are stored as its payload."""
        payload, codec = task.record.payload, task.definition.codec
        if payload is None or codec is None:
            return (), {}
        return codec.decode(payload if self._cipher is None else self._cipher.decrypt(payload))

    async def commit(self, tasks: Sequence[LiveTask]) -> None:
        """Make new tasks known: durable ones are committed first.

        Raises `BackendError` when that fails; then none of the tasks runs, and each is `REJECTED`
        (`commit_failed`).
        """
        if len(tasks) == 1 and not tasks[0].durable and tasks[0].cancel_reason is None:
            self._show(tasks[0], {})
            return
        results: dict[str, Applied] = {}
        durable = [task for task in tasks if task.durable]
        if durable:
            try:
                results = await self._commit_inserts(durable)
            except (BackendError, asyncio.CancelledError):
                self._undo(tasks)
                raise
        if len(tasks) <= _SLICE:
            for task in tasks:
                self._show(task, results)
        else:
            async for task in in_slices(tasks, _SLICE):
                self._show(task, results)
        # A shutdown that came meanwhile does not take back what is committed now.
        unwanted = [t for t in tasks if t.cancel_reason and not (t.cancel_reason == SHUTDOWN and t.record.persisted)]
        for task in unwanted:
            if task.cancel_reason == TAKEN_OVER:
                self._let_go(task)
            else:
                await self.discard([task], task.cancel_reason or SHUTDOWN)

    def _show(self, task: LiveTask, results: dict[str, Applied]) -> None:
        if task.durable:
            self._committed(task, results[task.id])
        if not task.known:
            self._lifecycle.enqueued(task)

    async def _commit_inserts(self, tasks: Sequence[LiveTask]) -> dict[str, Applied]:
        changes: list[Change] = []
        try:
            if len(tasks) == 1:
                tasks[0].advance(Step.COMMIT)
                return {tasks[0].id: await self._ledger.commit(Insert(tasks[0].record))}
            async for task in in_slices(tasks, _SLICE):
                task.advance(Step.COMMIT)
                changes.append(Insert(task.record))
            applied = await self._ledger.commit_all(changes)
        except BaseException:
            for task in tasks:
                if task.phase is Phase.COMMITTING:
                    task.advance(Step.COMMIT_FAILED)
            raise
        return {task.id: result for task, result in zip(tasks, applied, strict=True)}

    def _committed(self, task: LiveTask, result: Applied) -> None:
        if result.outcome is Outcome.DUPLICATE:
            self._duplicate(task, result.duplicate_of)
            return
        task.stored = True
        if result.outcome is Outcome.STALE:
            # Committed, without an answer, and taken over since.
            task.cancel_reason = TAKEN_OVER
        elif task.record.idempotency_key is not None:
            # Not before: what another request is told about must not vanish with a commit that fails.
            self._tasks.hold_key(task.record.idempotency_key, task.id)

    def release(self, tasks: Sequence[LiveTask]) -> None:
        """Hand committed tasks over: their request has ended, they may start."""
        if len(tasks) == 1:
            if tasks[0].phase is Phase.HELD:
                self.schedule(tasks[0])
            return
        with self._dispatcher.together():
            for task in tasks[:_SLICE]:
                if task.phase is Phase.HELD:
                    self.schedule(task)
        if len(tasks) > _SLICE:
            asyncio.get_running_loop().call_soon(self.release, tasks[_SLICE:])

    def schedule(self, task: LiveTask, wait: float | None = None) -> None:
        """Put a task in line: after `wait` seconds or its own delay, at its `run_at`, or at once."""
        queue = self._queues.of(task)
        if wait is not None:
            at_once = False
        elif task.ready_at:
            wait = task.ready_at - self._clock.monotonic()
            at_once = wait <= 0
        else:
            at_once = task.record.run_at is None or task.record.run_at <= self._clock.now()
        if at_once:
            if not task.waiting_in_queue:
                queue.take_place(task, enforce=False)
            self._dispatcher.ready(task)
            return
        queue.leave_place(task)
        queue.delayed += 1
        task.advance(Step.WAIT)

        def due() -> None:
            queue.delayed -= 1
            task.timer = None
            queue.take_place(task, enforce=False)
            self._dispatcher.ready(task)

        if wait is not None:
            task.timer = self._timers.after(wait, due)
        elif task.record.run_at is not None:
            task.timer = self._timers.at(task.record.run_at, due)

    async def discard(self, tasks: Iterable[LiveTask], reason: str) -> None:
        """End tasks that were never handed over: their request failed."""
        held = []
        for task in tasks:
            if task.phase is Phase.COMMITTING:
                task.cancel_reason = task.cancel_reason or reason
            elif task.phase in {Phase.BUILT, Phase.HELD}:
                held.append(task)
        for start in range(0, len(held), _SLICE):
            # Together, so that they share their transactions.
            await asyncio.gather(*(self._discard(task, reason) for task in held[start : start + _SLICE]))

    async def _discard(self, task: LiveTask, reason: str) -> None:
        if task.phase not in {Phase.BUILT, Phase.HELD}:
            return
        self._queues.of(task).leave_place(task)
        if not task.known:
            # Nothing of it is in the ledger: it goes there as history only.
            task.durable = False
            self._lifecycle.enqueued(task)
        task.advance(Step.END)
        try:
            await self._lifecycle.move(task, Transition.CANCELLED, reason=reason)
        except StaleTokenError:
            self._lifecycle.refused(task)

    def applied_late(self, change: Change, *, stale: bool) -> Coroutine[Any, Any, None] | None:
        """The ledger applied a change whose caller had gone, or been told that it failed: return what sets that right.

        Until that has run, the task counts among the unpublished. `stale`: another instance owns the task by now; if
        the change had been applied before that, it is shown, and the task goes on there.
        """
        if isinstance(change, AppendLogs):
            return None
        late = change.record
        task = self._tasks.live(late.task_id)
        if isinstance(change, Insert):
            doubt = self._doubt(late, REFUSED)
            if task is not None:
                self._undo([task])
            return self._correct(doubt, late, late, self._lifecycle.newborn)
        doubt = self._doubt(late, len(late.timeline) - 1)
        if stale or task is None:
            return self._correct(doubt, late, None)
        if task.phase in {Phase.READY, Phase.DELAYED}:
            return self._correct(doubt, late, task.record)
        if task.phase in {Phase.HELD, Phase.ENDING}:
            # Whoever was carrying it out has been cancelled, in a shutdown.
            self._lifecycle.adopt(task, late)
        doubt.close()
        return None

    def _doubt(self, record: TaskRecord, told: int) -> ExitStack:
        doubt = ExitStack()
        doubt.enter_context(self._tasks.untold(record.task_id, told))
        return doubt

    async def _correct(
        self,
        doubt: ExitStack,
        late: TaskRecord,
        truth: TaskRecord | None,
        as_applied: Callable[[TaskRecord], TaskRecord] = lambda record: record,
    ) -> None:
        """Write the truth over what was applied late; where that is too late too, show what was applied."""
        with doubt:
            if truth is not None:
                applied = await self._ledger.commit(Update(truth), timeout=float("inf"))
                if applied.outcome is not Outcome.STALE:
                    return
            await self._lifecycle.show_if_held(as_applied(late))

    def _persists(self, definition: TaskDefinition) -> bool:
        return self._durable and definition.codec is not None and (definition.config.persist or self._persist_all)

    def _encode(
        self, definition: TaskDefinition, args: tuple[Any, ...], kwargs: dict[str, Any], *, persisted: bool
    ) -> tuple[str | None, bool]:
        """Return the payload, and whether the arguments also stay in memory as they are."""
        if definition.codec is None:
            return None, True
        definition.codec.check(args, kwargs)
        try:
            payload = definition.codec.encode_checked(args, kwargs)
        except TaskArgumentError:
            # Without a promise to keep them the arguments may be anything, as natively; a retry will say why not.
            if persisted or self._cipher is not None:
                raise
            return None, True
        if self._cipher is not None:
            return self._cipher.encrypt(payload), False
        # What is promised to survive is run from what was stored, now as after a restart: no attempt sees what became
        # of the caller's objects, or what an earlier attempt did to its arguments.
        return payload, not persisted

    def _record(
        self, definition: TaskDefinition, options: EnqueueOptions, *, persisted: bool, payload: str | None, source: str
    ) -> TaskRecord:
        config = definition.config
        priority = options.priority if options.priority is not None else config.priority
        if options is NO_OPTIONS and source == "manual":
            return self._plain_record(definition, persisted=persisted, payload=payload)
        if options.eager is not None:
            flag("eager", options.eager)
        now = self._clock.now()
        run_at = self._run_at(options, now)
        queue = self._queues.get(_first_of(options.queue, config.queue, DEFAULT_QUEUE))
        return TaskRecord(
            task_id=new_task_id(),
            func_name=config.name,
            status=TaskStatus.PENDING,
            created_at=now,
            run_at=run_at,
            reason=first_reason(run_at, now),
            tags=checked_tags(options.tags),
            idempotency_key=checked_key(options.idempotency_key),
            source=source,
            priority=DEFAULT_PRIORITY if priority is None else checked_priority(priority),
            executor=config.executor,
            queue=queue.name,
            instance=self._instance_id(),
            payload=payload,
            persisted=persisted,
        )

    def _plain_record(self, definition: TaskDefinition, *, persisted: bool, payload: str | None) -> TaskRecord:
        """The record of a task that is added without options: a copy of the first of its type, but for what differs."""
        template = self._templates.get(definition)
        if template is None:
            template = self._record(definition, EnqueueOptions(), persisted=persisted, payload=None, source="manual")
            if definition.codec is not None:
                # Undecorated functions have a definition for each call.
                self._templates[definition] = template
        record = template.copy()
        record.task_id = new_task_id()
        record.created_at = self._clock.now()
        record.tags = {}
        record.trace = TaskTrace()
        record.instance = self._instance_id()
        record.payload = payload
        record.persisted = persisted
        return record

    @staticmethod
    def _run_at(options: EnqueueOptions, now: datetime) -> datetime | None:
        if options.delay is not None and options.run_at is not None:
            raise ConfigurationError("give delay or run_at, not both")
        if options.delay is not None:
            wait = seconds("delay", options.delay)
            return now + timedelta(seconds=wait) if wait > 0 else None
        return None if options.run_at is None else checked_moment("run_at", options.run_at)

    def _admit(self, task: LiveTask) -> Created:
        record = task.record
        key = record.idempotency_key
        if key is not None and (holder := self._tasks.holder_of(key)) is not None and self._lease_holds():
            return Created(holder, None)
        self._take_place(self._queues.get(record.queue), task, enforce=record.run_at is None)
        self._lifecycle.created(record)
        self._tasks.add(task)
        return Created(record.task_id, task)

    def _take_place(self, queue: Queue, task: LiveTask, *, enforce: bool) -> None:
        try:
            queue.take_place(task, enforce=enforce)
        except QueueFullError:
            self._lifecycle.created(task.record)
            task.durable = False
            self._on_loop(self._lifecycle.rejected, task, "queue_full")
            raise

    def _duplicate(self, task: LiveTask, holder: str | None) -> None:
        self._queues.of(task).leave_place(task)
        # The row of this id does not exist: what remains of it is history.
        task.durable = False
        self._lifecycle.rejected(task, "duplicate", duplicate_of=holder)

    def _let_go(self, task: LiveTask) -> None:
        self._queues.of(task).leave_place(task)
        if task.phase is not Phase.GONE:
            self._lifecycle.refused(task)

    def _undo(self, tasks: Sequence[LiveTask]) -> None:
        for task in tasks:
            if not task.known:
                self._queues.of(task).leave_place(task)
                self._lifecycle.rejected(task, "commit_failed", history=False)


def _first_of(*names: str | None) -> str:
    return next(name for name in names if name is not None)
