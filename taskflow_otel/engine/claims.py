"""Tasks that only one instance may make, and only once: firings of schedules and planned runs."""

from __future__ import annotations

from typing import NamedTuple

from taskflow_otel.backends.base import Insert, Outcome
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.queues import Queues
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.model.enqueue import EnqueueOptions
from taskflow_otel.model.objective import due_of
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.model.vocabulary import Reason, Source


class Claimed(NamedTuple):
    """The result of `Claims.claim`: the current record, whether this call made it, and if not, the id of the first."""

    record: TaskRecord
    new: bool
    first: str | None


class Claims:
    """Makes tasks under names that can be used only once."""

    def __init__(
        self,
        builder: TaskBuilder,
        intake: Intake,
        queues: Queues,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        ledger: Ledger,
        membership: Membership,
    ) -> None:
        self._builder = builder
        self._intake = intake
        self._queues = queues
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._membership = membership

    async def claim(
        self,
        definition: TaskDefinition,
        payload: str,
        options: EnqueueOptions,
        *,
        once: str,
        task_id: str | None = None,
        blocked_by: str | None = None,
        cause: SpanRef | None = None,
    ) -> Claimed:
        """Make a task from stored arguments, unless the name `once` was used before: commit it, then let it start.

        On a durable backend it is stored like a persisted task. It is published after the backend has confirmed that
        it is the first of its name. The commit has no timeout. With `blocked_by`, the id of a task, it is stored as
        `REJECTED` (`overlap`). Its `send` span links to `cause`. Raises `QueueFullError`, `UnknownQueueError`, and
        `BackendError` if the backend refuses the task for good.
        """
        task = self._builder.build_stored(definition, payload, options, source=Source.SCHEDULED)
        record = task.record
        record.trace.cause = cause
        queue = self._queues.get(record.queue)
        if blocked_by is None:
            self._intake.take_place(queue, task, enforce=True)
        # Only now: a task that a full queue refuses has a history entry of its own.
        record.task_id = task_id or record.task_id
        self._lifecycle.begin(record, due_of(definition.config.slo, record))
        if blocked_by is not None:
            self._lifecycle.mark_rejected(record, Reason.OVERLAP, duplicate_of=blocked_by)
        with self._tasks.unpublished_while(record.task_id):
            try:
                applied = await self._ledger.commit_alone(Insert(record, once))
                stale = applied.outcome is Outcome.STALE
                new = applied.outcome is Outcome.APPLIED or (stale and await self._ledger.holds(record))
            except BaseException:
                queue.leave_place(task)
                raise
            if not new:
                queue.leave_place(task)
                return Claimed(record, False, applied.duplicate_of)
            self._show_claimed(task)
        # If this process was declared dead since, the instance that takes over its tasks runs this one.
        if stale or record.instance != self._membership.instance.instance_id:
            self._intake.leave_new_to_owner(task)
        else:
            self._intake.hand_over([task])
        return Claimed(record, True, None)

    async def enqueue(
        self, definition: TaskDefinition, payload: str, options: EnqueueOptions, *, source: Source
    ) -> TaskRecord:
        """Make a task from stored arguments as any caller does who waits for it: many may be made, and none runs later.

        Raises `QueueFullError`, `UnknownQueueError` and `BackendError`, also after the commit timeout; then the task is
        `REJECTED`, as after a cancellation.
        """
        task = self._builder.build_stored(definition, payload, options, source=source)
        self._intake.take(task)
        await self._intake.make_known([task])
        self._intake.hand_over([task])
        return task.record.copy()

    def _show_claimed(self, task: LiveTask) -> None:
        record = task.record
        task.stored = True
        self._lifecycle.announce(record)
        if record.status.finished:
            task.durable = False
            self._lifecycle.publish_rejected(task)
            return
        if record.idempotency_key is not None:
            self._tasks.hold_key(record.idempotency_key, record.task_id)
        self._tasks.add(task)
        self._lifecycle.enqueued(task)
