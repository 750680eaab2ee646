"""Tasks that are made once ever, by whichever instance is first: firings of schedules and planned runs."""

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
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import Reason, Source


class Claimed(NamedTuple):
    """The result of `Claims.claim`: the record as it is now, and whether it is new; if not, who was first."""

    record: TaskRecord
    new: bool
    first: str | None


class Claims:
    """Makes tasks under names that can be used once."""

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
        once: str | None,
        source: Source = Source.SCHEDULED,
        task_id: str | None = None,
        blocked_by: str | None = None,
    ) -> Claimed:
        """Make a task from stored arguments, unless the name `once` has been used: commit it, then let it start.

        It is kept like a persisted task wherever the backend keeps anything, and shown only once it is known to be the
        first of its name. The commit waits for the backend for as long as it takes. With `blocked_by`, the id of a
        task, it is stored as `REJECTED` (`overlap`). Raises `QueueFullError`, `UnknownQueueError`, and `BackendError`
        when the backend refuses the task for good.
        """
        task = self._builder.build_stored(definition, payload, options, source=source)
        record = task.record
        queue = self._queues.get(record.queue)
        if blocked_by is None:
            self._intake.take_place(queue, task, enforce=True)
        # Not before: what a full queue refuses is a task of its own in the history.
        record.task_id = task_id or record.task_id
        self._lifecycle.begin(record)
        if blocked_by is not None:
            self._lifecycle.refuse(record, Reason.OVERLAP, duplicate_of=blocked_by)
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
        # Declared dead meanwhile, this process leaves it to whoever takes over the tasks of its former self.
        if stale or record.instance != self._membership.instance.instance_id:
            self._intake.leave_to_owner(task)
        else:
            self._intake.hand_over([task])
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
