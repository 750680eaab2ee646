"""Commits that the ledger applied after their caller gave up: makes the ledger and the published events agree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any, assert_never

from taskflow_otel.backends.base import APPENDED, Change, Insert, Outcome, Update
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import REFUSED, LiveTasks
from taskflow_otel.engine.phase import Phase
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.retrying import retrying


class LateCommits:
    """Corrects late commits, each in an asyncio task of `background`.

    `request_cancel` is that of the backend.
    """

    def __init__(
        self,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        ledger: Ledger,
        intake: Intake,
        background: OwnedTasks,
        request_cancel: Callable[[str], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._intake = intake
        self._background = background
        self._request_cancel = request_cancel
        self._clock = clock

    def applied(self, change: Change, stale: bool) -> None:
        """The ledger has applied this change late; see `correction`."""
        if (correction := self.correction(change, stale=stale)) is not None:
            self._background.own(correction)

    def correction(self, change: Change, *, stale: bool) -> Coroutine[Any, Any, None] | None:
        """Return what corrects a change that the ledger applied after its caller had gone or had got an error.

        Until the correction has run, the task counts as unpublished. `stale`: another instance owns the task now. If
        the change was applied before that, it is published, and the task continues there. But if the change was the
        task's insert, its caller was told that it does not run: that instance is asked to cancel it.
        """
        if isinstance(change, APPENDED):
            return None
        late = change.record
        task = self._tasks.live(late.task_id)
        if isinstance(change, Insert):
            if task is None and not late.status.finished:
                # A firing that the shutdown has cut short; the instance that takes it over lets it run.
                if stale:
                    return self._correct(self._doubt(late, 0), late, None)
                self._lifecycle.left_to_others(late)
                return None
            doubt = self._doubt(late, REFUSED)
            if task is not None:
                self._intake.reject([task])
            return self._correct(doubt, late, late, self._lifecycle.as_enqueued)
        if not isinstance(change, Update):
            assert_never(change)
        doubt = self._doubt(late, len(late.timeline) - 1)
        if stale or task is None:
            return self._correct(doubt, late, None)
        if self._ledger.awaits(task.id):
            # The next change has none of this one, such as a cancellation after a start that took too long.
            doubt.close()
            return None
        if task.phase in {Phase.READY, Phase.DELAYED}:
            return self._correct(doubt, late, task.record)
        if task.phase in {Phase.HELD, Phase.ENDING}:
            # A shutdown has cancelled the code that made this change.
            self._lifecycle.adopt(task, late)
        doubt.close()
        return None

    def _doubt(self, record: TaskRecord, published: int) -> ExitStack:
        doubt = ExitStack()
        doubt.enter_context(self._tasks.unpublished_while(record.task_id, published))
        return doubt

    async def _correct(
        self,
        doubt: ExitStack,
        late: TaskRecord,
        truth: TaskRecord | None,
        as_applied: Callable[[TaskRecord], TaskRecord] = lambda record: record,
    ) -> None:
        """Overwrite the late change with the true state; if that is too late as well, publish what was applied."""
        with doubt:
            if truth is not None:
                applied = await self._ledger.commit(Update(truth), timeout=float("inf"))
                if applied.outcome is not Outcome.STALE:
                    return
                if truth.status is TaskStatus.REJECTED:
                    self._background.own(self._cancel_elsewhere(truth.task_id))
            await self._lifecycle.show_if_held(as_applied(late))

    async def _cancel_elsewhere(self, task_id: str) -> None:
        await retrying(self._clock, lambda: self._request_cancel(task_id))
