"""What happens to one task of a dead instance (`docs/guarantees.md`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime

from taskflow_otel.engine.failure import Failure
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.membership import Ownership
from taskflow_otel.engine.phase import Phase, Step
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry
from taskflow_otel.errors import StaleTokenError, UnknownTaskError
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.deadline import within
from taskflow_otel.runtime.owned_tasks import OwnedTasks

logger: logging.Logger = logging.getLogger("taskflow_otel.recovery")


class Recovery:
    """Decides about the tasks of dead instances.

    A pending task runs. A running one runs again if its type allows that, else it becomes `INTERRUPTED`. A task that
    is not persisted ends. `patience`: seconds after which a takeover no longer waits for open decisions.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        intake: Intake,
        clock: Clock,
        max_crashes: int,
        *,
        patience: float,
    ) -> None:
        self._registry = registry
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._intake = intake
        self._clock = clock
        self._max_crashes = max_crashes
        self._patience = patience
        self._decisions = OwnedTasks(_log_error)

    async def recover(self, taken: Sequence[tuple[TaskRecord, datetime]]) -> None:
        """Decide about tasks that this instance has just taken over, and start those that may run.

        Each task comes with the last heartbeat of its dead owner. Slow decisions continue after this returns.
        """
        decisions = self._decisions.own(self._recover_all(taken))
        # A locked row must not delay the other tasks or the next takeover.
        with contextlib.suppress(TimeoutError):
            async with within(self._clock, self._patience):
                await asyncio.shield(decisions)

    async def stop(self) -> None:
        """Stop deciding; in the ledger, undecided tasks stay with this instance."""
        await self._decisions.stop()

    async def _recover_all(self, taken: Sequence[tuple[TaskRecord, datetime]]) -> None:
        decisions: dict[asyncio.Task[LiveTask | None], TaskRecord]
        decisions = {asyncio.ensure_future(self._decide(*one)): one[0] for one in taken}
        pending = set(decisions)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                # Tasks of one transaction are handed over together, so that their priorities decide the order.
                decided = [d.result() for d in decisions if d in done and _decided(d, decisions[d])]
                self._intake.hand_over([task for task in decided if task is not None])
        finally:
            for decision in pending:
                decision.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _decide(self, record: TaskRecord, last_heartbeat: datetime) -> LiveTask | None:
        if self._tasks.has(record):
            # What a takeover whose answer was lost may have got is asked for by time: a claim has brought this one.
            return None
        definition = self._definition(record)
        # The function may have become async or plain since the task was stored.
        record.executor = definition.config.executor
        task = LiveTask(record, definition, None, None, None, durable=True)
        task.stored = True
        task.arrival = asyncio.current_task()
        task.advance(Step.TAKEN_OVER)
        self._tasks.add(task)
        if record.idempotency_key is not None:
            self._tasks.hold_key(record.idempotency_key, record.task_id)
        try:
            if record.status is TaskStatus.RUNNING:
                await self._was_running(task, last_heartbeat)
            elif record.cancel_requested:
                await self._lifecycle.move(task, Transition.CANCELLED, reason=Reason.CANCELLED)
            elif not record.persisted:
                await self._lifecycle.move(task, Transition.CANCELLED, reason=Reason.PROCESS_DIED)
            else:
                await self._lifecycle.move(task, Transition.RECOVERED, reason=Reason.TAKEOVER)
        except StaleTokenError:
            # During this decision, the instance itself was declared dead.
            self._lifecycle.fenced(task)
        task.arrival = None
        if task.phase is Phase.ENDING:
            task.advance(Step.SET_ASIDE)
            if task.cancel_reason is Ownership.LOST:
                # Its commit was faster than the takeover by the next owner.
                self._lifecycle.fenced(task)
        return task

    async def _was_running(self, task: LiveTask, last_heartbeat: datetime) -> None:
        record = task.record
        failure = Failure(
            f"the process of instance {record.timeline[-1].instance} ended while this task was running",
            "ProcessDied",
            None,
        )
        duration = (last_heartbeat - record.start_time).total_seconds() if record.start_time else None
        again = record.persisted and task.definition.config.requeue_on_interrupt and not record.cancel_requested
        if again and record.crashes + 1 >= self._max_crashes:
            transition, reason = Transition.FAILED, Reason.POISON
            failure = Failure(
                f"this task was running in {record.crashes + 1} processes that died; it is not started again",
                "PoisonTask",
                None,
            )
        elif again:
            transition, reason = Transition.RECOVERED, Reason.PROCESS_DIED
        else:
            transition, reason = Transition.INTERRUPTED, Reason.PROCESS_DIED
        await self._lifecycle.move(
            task, transition, reason=reason, failure=failure, end_time=last_heartbeat, duration=duration, crashed=True
        )

    def _definition(self, record: TaskRecord) -> TaskDefinition:
        try:
            return self._registry.get(record.func_name)
        except UnknownTaskError:
            # Under an unknown name, only tasks that are not persisted are taken over, in order to end them.
            return self._registry.placeholder(record.func_name)


def _decided(decision: asyncio.Task[LiveTask | None], record: TaskRecord) -> bool:
    if decision.cancelled():
        return False
    if (exc := decision.exception()) is not None:
        # The task stays with this instance in the ledger; its next takeover decides again.
        logger.error("task %s could not be recovered: %s", record.task_id, exc, exc_info=exc)
    return exc is None


def _log_error(exc: BaseException) -> None:
    logger.critical("a recovery ended with an error of the engine: %s", exc, exc_info=exc)
