"""The intake of every new task, whatever made it: it gets a place, becomes known, and may start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple, assert_never

from taskflow_otel.backends.base import Applied, Change, Insert, Outcome
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.membership import Membership, Ownership
from taskflow_otel.engine.objectives import ObjectiveWatch
from taskflow_otel.engine.phase import Phase, Step
from taskflow_otel.engine.queues import Queue, Queues
from taskflow_otel.errors import BackendError, QueueFullError, StaleTokenError
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.objective import due_of
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import in_slices
from taskflow_otel.runtime.timers import Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_NAMED = 5
"""Tasks that one log line names."""
_SLICE = 100
"""Tasks handled in one callback of the event loop before others get their turn."""


# Module-level names: until Python 3.12, the lookup of an enum member takes as long as a call.
_HELD = Phase.HELD
_COMMIT = Step.COMMIT
_DUPLICATE, _STALE = Outcome.DUPLICATE, Outcome.STALE


class Taken(NamedTuple):
    """The result of `Intake.take`: the id, and the new task unless the id is that of an earlier one."""

    task_id: str
    task: LiveTask | None


class Intake:
    """Takes new tasks in.

    In three steps, because a request needs them at different times: `take` when a route adds the task, `make_known`
    before the response's first byte, `hand_over` when the request is over. `enqueue` and retries do all three at once.
    """

    def __init__(
        self,
        queues: Queues,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        ledger: Ledger,
        dispatcher: Dispatcher,
        timers: Timers,
        clock: Clock,
        membership: Membership,
        life: Life,
        objectives: ObjectiveWatch,
    ) -> None:
        self._queues = queues
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._timers = timers
        self._clock = clock
        self._membership = membership
        self._life = life
        self._objectives = objectives

    def take(self, task: LiveTask) -> Taken:
        """Give a built task a place in its queue and a trace context. Callable from any thread.

        Raises `QueueFullError`; then the task is `REJECTED`.
        """
        record = task.record
        key = record.idempotency_key
        if key is not None and (holder := self._tasks.holder_of(key)) is not None and self._membership.lease_holds:
            if self._tasks.live(holder) is not None:
                return Taken(holder, None)
            task.repeats = holder
            return Taken(holder, task)
        self.take_place(self._queues.get(record.queue), task, enforce=record.run_at is None)
        slo = task.definition.config.slo
        self._lifecycle.created(record, None if slo is None else due_of(slo, record))
        self._tasks.add(task)
        # A `Taken`, without the call that its class would make for it.
        return tuple.__new__(Taken, (record.task_id, task))

    def enter(self, task: LiveTask) -> None:
        """Publish a taken task that needs no commit, and let it start."""
        self._lifecycle.enqueued(task)
        if task.phase is _HELD:
            self.line_up(task)

    def publish(self, tasks: Sequence[LiveTask]) -> bool:
        """Publish taken tasks if none of them needs a commit; return whether that is so."""
        if len(tasks) > _SLICE:
            return False
        for task in tasks:
            if task.durable or task.cancel_reason is not None:
                return False
        for task in tasks:
            if not task.known:
                self._lifecycle.enqueued(task)
        return True

    async def make_known(self, tasks: Sequence[LiveTask], refusals: dict[str, BackendError] | None = None) -> None:
        """Commit new durable tasks, then publish all of them.

        Raises `BackendError` if the commit fails; then none of the tasks runs, and each is `REJECTED`
        (`commit_failed`; `error` says why if trying again cannot help). With `refusals` the tasks do not belong
        together: one that the backend refuses for good is `REJECTED`, gets its error there, and stops no other.
        """
        if len(tasks) == 1 and not tasks[0].durable and tasks[0].cancel_reason is None:
            self._show(tasks[0], {})
            return
        if any(task.repeats is not None for task in tasks):
            tasks = await self._without_repeated(tasks)
        results: dict[str, Applied] = {}
        durable = [task for task in tasks if task.durable]
        if durable:
            try:
                if refusals is None:
                    results = await self._commit_inserts(durable)
                else:
                    results = await self._commit_each(durable, refusals)
                    tasks = [task for task in tasks if task.id not in refusals]
                    durable = [task for task in durable if task.id not in refusals]
            except (BackendError, asyncio.CancelledError) as exc:
                self.reject(tasks, _why(exc, tasks))
                raise
        refused = [task for task in durable if results[task.id].outcome is _DUPLICATE]
        if len(tasks) <= _SLICE:
            for task in tasks:
                self._show(task, results)
        else:
            async for task in in_slices(tasks, _SLICE):
                self._show(task, results)
        if refused:
            await self._keep(refused)
        # A shutdown that began since does not undo the commit.
        for task in [task for task in tasks if task.cancel_reason]:
            cause = task.cancel_reason
            if cause is Ownership.LOST:
                self.leave_new_to_owner(task)
            elif cause is not None and not (cause is Reason.SHUTDOWN and task.record.persisted):
                await self.withdraw([task], cause)

    def _show(self, task: LiveTask, results: dict[str, Applied]) -> None:
        if task.durable:
            self._committed(task, results[task.id])
        if not task.known:
            self._lifecycle.enqueued(task)

    async def _commit_inserts(self, tasks: Sequence[LiveTask]) -> dict[str, Applied]:
        changes: list[Change] = []
        try:
            if len(tasks) == 1:
                [task] = tasks
                task.advance(_COMMIT)
                entry = self._ledger.submit(Insert(task.record, task.once, task.link))
                try:
                    return {task.record.task_id: await entry.future}
                except BaseException:
                    self._ledger.leave(entry)
                    raise
            async for task in in_slices(tasks, _SLICE):
                task.advance(_COMMIT)
                changes.append(Insert(task.record, task.once, task.link))
            applied = await self._ledger.commit_all(changes)
        except BaseException:
            _go_back(tasks)
            raise
        return {task.id: result for task, result in zip(tasks, applied, strict=True)}

    async def _commit_each(self, tasks: Sequence[LiveTask], refusals: dict[str, BackendError]) -> dict[str, Applied]:
        results: dict[str, Applied] = {}
        try:
            async for task in in_slices(tasks, _SLICE):
                task.advance(_COMMIT)
            applied = await self._ledger.commit_each([Insert(task.record, task.once, task.link) for task in tasks])
        except BaseException:
            _go_back(tasks)
            raise
        for task, result in zip(tasks, applied, strict=True):
            if isinstance(result, BackendError):
                refusals[task.id] = result
                _go_back([task])
                self.reject([task], _why(result, [task]))
            else:
                results[task.id] = result
        return results

    def _committed(self, task: LiveTask, result: Applied) -> None:
        match result.outcome:
            case Outcome.APPLIED:
                task.stored = True
                if task.cancel_reason is Ownership.LOST and self._owns(task):
                    # It was refused under the former id of this process, and stored under the new one.
                    task.cancel_reason = None
                if task.record.idempotency_key is not None:
                    # Only now: another request must not get the id of a task whose commit then fails.
                    self._tasks.hold_key(task.record.idempotency_key, task.id)
            case Outcome.DUPLICATE:
                self._duplicate(task, result.duplicate_of)
            case Outcome.STALE:
                # The commit's answer was lost, and another instance has taken the task over since.
                task.stored = True
                task.cancel_reason = Ownership.LOST
            case _:
                assert_never(result.outcome)

    def _owns(self, task: LiveTask) -> bool:
        return task.record.instance == self._membership.instance.instance_id

    def hand_over(self, tasks: Sequence[LiveTask]) -> None:
        """Let committed tasks start: their request has ended."""
        if len(tasks) == 1:
            if tasks[0].phase is _HELD:
                self.line_up(tasks[0])
            return
        with self._dispatcher.together():
            for task in tasks[:_SLICE]:
                if task.phase is _HELD:
                    self.line_up(task)
        if len(tasks) > _SLICE:
            asyncio.get_running_loop().call_soon(self.hand_over, tasks[_SLICE:])

    def line_up(self, task: LiveTask, wait: float | None = None) -> None:
        """Make a task ready: after `wait` seconds or its own delay, at its `run_at`, or at once."""
        queue = self._queues.of(task)
        if task.definition.config.slo is not None:
            self._objectives.watch(task)
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
            self._dispatcher.ready(task, queue)
            return
        queue.leave_place(task)
        queue.delayed += 1
        task.advance(Step.WAIT)
        if queue.of_all or queue.by_doorbell:
            # It holds no slot while it waits. The next one comes with the next claim, here or elsewhere.
            task.claimed = False

        def due() -> None:
            queue.delayed -= 1
            task.timer = None
            queue.take_place(task, enforce=False)
            self._dispatcher.ready(task, queue)

        if wait is not None:
            task.timer = self._timers.after(wait, due)
        elif task.record.run_at is not None:
            task.timer = self._timers.at(task.record.run_at, due)

    def line_up_claimed(self, task: LiveTask, since: float) -> None:
        """Make a task ready that was claimed from the pool; `since`: the monotonic time at which it became ready."""
        if task.definition.config.slo is not None:
            self._objectives.watch(task)
        queue = self._queues.of(task)
        queue.take_place(task, enforce=False)
        self._dispatcher.ready(task, queue, since)

    async def _without_repeated(self, tasks: Sequence[LiveTask]) -> list[LiveTask]:
        """Drop the tasks that repeat a finished one, and take in those whose original was deleted."""
        try:
            return [task for task in tasks if task.repeats is None or not await self._repeats(task)]
        except (BackendError, asyncio.CancelledError):
            self.reject(tasks)
            raise

    async def _repeats(self, task: LiveTask) -> bool:
        record, original = task.record, task.repeats or ""
        key = record.idempotency_key or ""
        if await self._ledger.holder_of(key) == original:
            self._drop_repeated(task)
            return True
        self._tasks.release_key(key, original)
        if self._tasks.live(record.task_id) is not None:
            # Two callers got the same id: the ledger decides which task has the key.
            record.task_id = new_task_id()
        task.repeats = None
        self.take_place(self._queues.get(record.queue), task, enforce=False)
        self._lifecycle.created(record, due_of(task.definition.config.slo, record))
        self._tasks.add(task)
        return False

    @staticmethod
    def _drop_repeated(task: LiveTask) -> None:
        """Forget a task that was never published; its caller has the id of an earlier one."""
        task.advance(Step.LEAVE)
        task.args = task.kwargs = task.sealed = task.context = None

    async def withdraw(self, tasks: Iterable[LiveTask], reason: Reason) -> None:
        """End tasks that were never handed over: their request failed."""
        held = []
        for task in tasks:
            if task.phase is Phase.COMMITTING:
                task.cancel_reason = task.cancel_reason or reason
            elif task.repeats is not None and task.phase is Phase.BUILT:
                self._drop_repeated(task)
            elif task.phase in {Phase.BUILT, _HELD}:
                held.append(task)
        for start in range(0, len(held), _SLICE):
            # All at once, so that they share transactions.
            await asyncio.gather(*(self._withdraw(task, reason) for task in held[start : start + _SLICE]))

    async def _withdraw(self, task: LiveTask, reason: Reason) -> None:
        if task.phase not in {Phase.BUILT, _HELD}:
            return
        self._queues.of(task).leave_place(task)
        if not task.known:
            # The ledger does not hold it; it is written there as history only.
            task.durable = False
            self._lifecycle.enqueued(task)
        task.advance(Step.END)
        try:
            await self._lifecycle.move(task, Transition.CANCELLED, reason=reason)
        except StaleTokenError:
            self._lifecycle.fenced(task)

    def take_place(self, queue: Queue, task: LiveTask, *, enforce: bool) -> None:
        """Count a task as waiting in a queue; raises `QueueFullError`, and then the task is `REJECTED`."""
        try:
            queue.take_place(task, enforce=enforce)
        except QueueFullError:
            self._lifecycle.created(task.record, None)
            task.durable = False
            self._life.call_on_loop(self._lifecycle.rejected, task, Reason.QUEUE_FULL)
            raise

    def _duplicate(self, task: LiveTask, holder: str | None) -> None:
        self._queues.of(task).leave_place(task)
        # The ledger has no row of this id; the record is written as history.
        task.durable = False
        self._lifecycle.rejected(task, Reason.DUPLICATE, duplicate_of=holder, history=False)

    async def _keep(self, refused: Sequence[LiveTask]) -> None:
        """Commit duplicates as history: clients got their ids, and find there which task was first."""
        try:
            await self._ledger.commit_all([Insert(task.record) for task in refused])
        except (BackendError, asyncio.CancelledError) as exc:
            for task in refused:
                self._lifecycle.note(task)
            if isinstance(exc, asyncio.CancelledError):
                raise
            logger.warning("%d duplicates are not in the history yet (%s); they are written later", len(refused), exc)
        else:
            for task in refused:
                task.stored = True

    def leave_new_to_owner(self, task: LiveTask) -> None:
        """Forget a new task that another instance owns now."""
        self._queues.of(task).leave_place(task)
        if task.phase is not Phase.GONE:
            self._lifecycle.fenced(task)

    def reject(self, tasks: Iterable[LiveTask], why: str | None = None) -> None:
        """End tasks whose commit failed: they never run."""
        for task in tasks:
            if task.repeats is not None and task.phase is Phase.BUILT:
                self._drop_repeated(task)
            elif not task.known:
                self._queues.of(task).leave_place(task)
                self._lifecycle.rejected(task, Reason.COMMIT_FAILED, error=why, history=False)


def _go_back(tasks: Iterable[LiveTask]) -> None:
    """Their commit has failed."""
    for task in tasks:
        if task.phase is Phase.COMMITTING:
            task.advance(Step.COMMIT_FAILED)


def _why(exc: BaseException, tasks: Sequence[LiveTask]) -> str | None:
    """Why the backend refuses these tasks for good, in words for their records: without the database's address."""
    if not isinstance(exc, BackendError) or exc.transient:
        return None
    logger.warning("the backend refuses %s for good: %s", " or ".join(task.id for task in tasks[:_NAMED]), exc)
    reason = plain_text(exc.reason or "the backend refuses a value; the log of this process says why")
    return reason if len(tasks) == 1 else f"one of the {len(tasks)} tasks that belong together was refused: {reason}"
