"""The cancellation of tasks, from outside and by the engine itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import assert_never

from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.executors.base import Executor
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.membership import LEAVING, Ownership, StopCause
from taskflow_otel.engine.phase import Phase, Step
from taskflow_otel.engine.queues import Queues
from taskflow_otel.engine.stacks import Stacks
from taskflow_otel.errors import BackendError, StaleTokenError, TaskStateError
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.timers import Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")


class Control:
    """Cancels tasks, of this process and of the other instances."""

    def __init__(
        self,
        backend: Backend,
        lookup: Lookup,
        tasks: LiveTasks,
        queues: Queues,
        lifecycle: Lifecycle,
        ledger: Ledger,
        dispatcher: Dispatcher,
        intake: Intake,
        executors: Mapping[str, Executor],
        timers: Timers,
        life: Life,
        stacks: Stacks,
        *,
        cancel_grace: float,
    ) -> None:
        self._backend = backend
        self._lookup = lookup
        self._tasks = tasks
        self._queues = queues
        self.lifecycle = lifecycle
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._intake = intake
        self._executors = executors
        self._timers = timers
        self.life = life
        self.stacks: Stacks = stacks
        self._grace = cancel_grace
        self._claim_one: Callable[[str], Awaitable[LiveTask | None]] = _nothing_claimed
        self.stuck: dict[str, str] = {}
        """The executors, by task id, of attempts that were asked to stop and still run."""

    def connect(self, claim_one: Callable[[str], Awaitable[LiveTask | None]]) -> None:
        """Set what claims one task from the pool."""
        self._claim_one = claim_one

    @at_home
    async def cancel(self, task_id: str) -> TaskRecord:
        """Cancel a task. A pending one never runs; a running one is stopped or, in a thread, asked to stop.

        Raises `TaskNotFoundError`, and `TaskStateError` if it has finished.
        """
        live = self._tasks.live(task_id)
        if live is not None and live.phase is Phase.ENDING and live.attempt is None and live.arrival is not None:
            # Whether it runs here is known only after the decision about its takeover, or its gift, is committed.
            await asyncio.wait({live.arrival})
            live = self._tasks.live(task_id)
        if live is not None and live.phase is not Phase.GONE:
            await self.stop(live, Reason.CANCELLED)
            if live.durable and live.phase in {Phase.STARTING, Phase.RUNNING}:
                await self._remember(task_id)
            if live.record.status.finished or self._tasks.live(task_id) is live:
                return live.record.copy()
            # The ledger refused its end: it is another instance's, or was deleted.
        record = await self._lookup.get(task_id)
        if record.status.finished:
            raise finished_already(record)
        if record.instance == POOL and (claimed := await self._claim_one(task_id)) is not None:
            await self.stop(claimed, Reason.CANCELLED)
            return claimed.record.copy()
        if not await self._backend.request_cancel(task_id):
            raise TaskStateError(f"task {task_id} has just finished and cannot be cancelled")
        record.cancel_requested = True
        return record

    async def cancel_for_another(self, task_id: str) -> None:
        """Cancel a live task of this process, because another instance was asked to."""
        task = self._tasks.live(task_id)
        if task is not None and task.cancel_reason is None and task.phase not in {Phase.ENDING, Phase.GONE}:
            await self.stop(task, Reason.CANCELLED)

    async def cancel_in_pool(self, task_id: str) -> None:
        """Cancel a task of the pool, unless another instance takes it first."""
        if (claimed := await self._claim_one(task_id)) is not None:
            await self.stop(claimed, Reason.CANCELLED)

    async def stop(self, task: LiveTask, reason: Reason) -> None:
        """Cancel a live task of this process."""
        match task.phase:
            case Phase.COMMITTING:
                # Nothing may be published before its commit is known. The intake cancels it then.
                self._want(task, reason)
            case Phase.BUILT:
                await self._intake.withdraw([task], reason)
            case Phase.READY | Phase.DELAYED | Phase.HELD:
                self._stop_waiting(task)
                task.advance(Step.END)
                try:
                    await self.lifecycle.move(task, Transition.CANCELLED, reason=reason)
                except StaleTokenError:
                    self.lifecycle.fenced(task)
            case Phase.STARTING | Phase.RUNNING:
                self._ask(task, reason)
            case Phase.ENDING if task.attempt is not None and not task.attempt.done():
                # Whether it will retry is known only after its outcome is committed.
                await asyncio.wait({task.attempt})
                await self.stop(task, reason)
            case Phase.ENDING if task.arrival is not None and not task.arrival.done():
                # Whether it runs here is known only after the decision about its takeover is committed.
                await asyncio.wait({task.arrival})
                await self.stop(task, reason)
            case Phase.ENDING | Phase.GONE:
                raise TaskStateError(f"task {task.id} has just ended and cannot be cancelled")
            case _:
                assert_never(task.phase)

    async def _remember(self, task_id: str) -> None:
        """Store the request, so that the task does not run again if the process dies before it stops."""
        try:
            await self._backend.request_cancel(task_id)
        except BackendError as exc:
            logger.warning("the request to cancel task %s could not be written: %s", task_id, exc)

    def set_aside(self, task: LiveTask) -> None:
        """Take a waiting task out of everything that could start it; the ledger keeps it."""
        self._stop_waiting(task)
        task.advance(Step.SET_ASIDE)

    def forget(self, task: LiveTask) -> None:
        """Forget a task of a stopped engine."""
        self._stop_waiting(task)
        self.lifecycle.forget(task)

    async def rejoin(self, instance_id: str) -> None:
        """Forget the tasks that others have taken over from this process, and own the rest under a new id."""
        self._ledger.rejoined()
        for task in self._tasks:
            if task.record.idempotency_key is not None:
                # The new owner decides what happens to the key.
                self._tasks.release_key(task.record.idempotency_key, task.id)
            if not task.durable:
                task.record.instance = instance_id
                continue
            match task.phase:
                case Phase.STARTING | Phase.RUNNING:
                    self._ask(task, Ownership.LOST)
                case Phase.BUILT:
                    # The ledger does not hold it yet.
                    task.record.assign(instance_id)
                case Phase.COMMITTING:
                    # The intake publishes it once its commit is known, and then forgets it.
                    self._want(task, Ownership.LOST)
                case Phase.READY | Phase.DELAYED | Phase.HELD:
                    self.leave_to_owner(task)
                case Phase.ENDING:
                    # The ledger refuses its change, or has taken it already; it does not continue here in any case.
                    self._want(task, Ownership.LOST)
                case Phase.GONE:
                    pass
                case _:
                    assert_never(task.phase)

    def leave_to_owner(self, task: LiveTask) -> None:
        """Forget a task that waits here and belongs to another instance now."""
        self._stop_waiting(task)
        self.lifecycle.fenced(task)

    def _stop_waiting(self, task: LiveTask) -> None:
        queue = self._queues.of(task)
        if task.phase is Phase.READY:
            self._dispatcher.remove(task)
        elif task.phase is Phase.DELAYED:
            queue.delayed -= 1
            if task.timer is not None:
                task.timer.cancel()
        queue.leave_place(task)

    def _ask(self, task: LiveTask, reason: StopCause) -> None:
        first = task.cancel_reason is None
        self._want(task, reason)
        if task.phase is Phase.RUNNING:
            self._ledger.note(task)
            if task.task_context is not None:
                task.task_context.request_cancel()
            on_loop = task.call is not None and task.call.on_loop
            if task.attempt is not None and (on_loop or self._executors[task.record.executor].cancellable):
                task.attempt.cancel()
        if first:
            self.watch(task)

    @staticmethod
    def _want(task: LiveTask, reason: StopCause) -> None:
        if task.cancel_reason is None or reason is Ownership.LOST:
            task.cancel_reason = reason
        if reason not in LEAVING:
            # A user asked for it, so it also applies if another instance runs the task next.
            task.record.cancel_requested = True

    def watch(self, task: LiveTask) -> None:
        """Report the running attempt if it does not stop in time."""
        attempt = task.attempt
        self._timers.after(self._grace, lambda: self._report_stuck(task, attempt))

    def abandon(self, task: LiveTask) -> None:
        """End an attempt that ignores its cancellation, whatever its function does.

        A coroutine is closed where it waits. A thread cannot be ended: it runs on until the process ends.
        """
        if task.call is not None and task.attempt is not None:
            task.call.abandoned = True
            task.attempt.cancel()

    def _report_stuck(self, task: LiveTask, attempt: asyncio.Task[None] | None) -> None:
        if attempt is None or attempt.done() or task.phase is not Phase.RUNNING or task.id in self.stuck:
            return
        self.stuck[task.id] = task.record.executor
        self.stacks.remember(task, f"it was asked to stop {self._grace:g} s ago and still runs")
        attempt.add_done_callback(lambda _: self.stuck.pop(task.id, None))
        logger.warning(
            "task %s (%s) was asked to stop %g s ago and still runs; check context.cancelled in its loop, and do not "
            "swallow CancelledError",
            task.id,
            task.record.func_name,
            self._grace,
        )


def finished_already(record: TaskRecord) -> TaskStateError:
    """Why a task that has finished cannot be cancelled."""
    return TaskStateError(
        f"task {record.task_id} is {record.status} already and cannot be cancelled; only one that waits or runs can"
    )


async def _nothing_claimed(_: str) -> LiveTask | None:
    return None
