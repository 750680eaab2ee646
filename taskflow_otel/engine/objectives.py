"""The time limits of objectives: writes into the timeline of a live task that its limit has passed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from taskflow_otel.backends.base import Applied, Outcome, Update
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.objective import SLO, missed
from taskflow_otel.model.record import NEVER_DUE, TaskRecord
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.timers import Timers

_STEADY = frozenset({Phase.HELD, Phase.DELAYED, Phase.READY, Phase.RUNNING})
"""No commit of the task is on its way: a line can be added."""
_AGAIN = 1.0
"""Seconds until the next look at a task whose commit is on its way; usually it ends, or starts, before."""


class ObjectiveWatch:
    """Watches the live tasks that have a time limit.

    The line is a change like any other: a durable task commits it under its fencing token and publishes it afterwards.
    So it is written once in any fleet, and everyone who reads the ledger counts the same.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        ledger: Ledger,
        tasks: LiveTasks,
        timers: Timers,
        clock: Clock,
        background: OwnedTasks,
        registry: TaskRegistry,
    ) -> None:
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._tasks = tasks
        self._timers = timers
        self._clock = clock
        self._background = background
        self._registry = registry
        self._doubts: dict[str, ExitStack] = {}
        """The tasks whose line is being committed, or whose commit the shutdown cut off."""
        self._overdue: dict[str, LiveTask] = {}
        self._elsewhere: Callable[[], Mapping[str, int]] = dict

    def connect(self, elsewhere: Callable[[], Mapping[str, int]]) -> None:
        """Set what else is late, by name: what nobody owns, and this process counts."""
        self._elsewhere = elsewhere

    def declared(self) -> dict[str, SLO]:
        """The objectives of the task types of this process, by name."""
        known = self._registry.all()
        return {one.name: one.config.slo for one in known if one.config.slo is not None}

    def overdue(self) -> dict[str, int]:
        """How many tasks are late, of this process and in the pool, by the name of their type.

        Each process counts others. Callable from any thread.
        """
        found = dict(self._elsewhere())
        for task_id, task in list(self._overdue.items()):
            if task.phase is Phase.GONE:
                self._overdue.pop(task_id, None)
            else:
                found[task.record.func_name] = found.get(task.record.func_name, 0) + 1
        return found

    def watch(self, task: LiveTask) -> None:
        """Watch a task until it ends; harmless to repeat."""
        timeline = task.record.timeline
        due = timeline[0].due_at
        if task.objective_timer is not None or due is None or due >= NEVER_DUE:
            return
        if missed(timeline):
            self._overdue[task.id] = task
            return
        left = (due - self._clock.now()).total_seconds()
        if left <= 0:
            # It was taken over, or its request took long.
            self._passed(task)
        else:
            # By the monotonic clock: setting the wall clock moves no limit of a waiting task.
            self._look_after(left, task)

    async def judge(self, task: LiveTask) -> None:
        """Write the line that the limit of a waiting task has passed, and return once the ledger has answered."""
        if (answer := self._passed(task)) is not None:
            await asyncio.wait({answer})

    def forget(self) -> None:
        """The engine has stopped: no outcome of a commit will be known any more."""
        for doubt in self._doubts.values():
            doubt.close()
        self._doubts.clear()
        self._overdue.clear()

    def _look_after(self, seconds: float, task: LiveTask) -> None:
        task.objective_timer = self._timers.after(seconds, lambda: self._timed_out(task))

    def _timed_out(self, task: LiveTask) -> None:
        self._passed(task)

    def _passed(self, task: LiveTask) -> asyncio.Future[Applied] | None:
        """Write the line now if that is possible; returns the answer of the ledger, if it is asked."""
        if task.phase is Phase.GONE:
            return None
        if task.phase not in _STEADY:
            # An end that is being committed now decides by its own time; a start may be followed by a long run.
            self._look_after(_AGAIN, task)
            return None
        published = len(task.record.timeline)
        changed = self._lifecycle.miss_objective(task)
        self._overdue[task.id] = task
        if not task.durable:
            self._ledger.note(task)
            self._lifecycle.show_missed(changed)
            return None
        try:
            entry = self._ledger.submit(Update(changed), timeout=float("inf"))
        except BackendUnavailableError:
            # The event loop is being closed. The next owner of the task writes the line.
            return None
        doubt = self._doubts[task.id] = ExitStack()
        doubt.enter_context(self._tasks.unpublished_while(task.id, published))
        # No coroutine waits for it, so nothing can cancel the publication of what the ledger has taken.
        entry.future.add_done_callback(partial(self._answered, changed))
        return entry.future

    def _answered(self, record: TaskRecord, answer: asyncio.Future[Applied]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            # The shutdown: only the ledger knows.
            return
        if answer.result().outcome is Outcome.STALE:
            # Another instance owns the task now; the line may have been written before that.
            self._background.own(self._settle(record))
            return
        self._lifecycle.show_missed(record)
        self._doubts.pop(record.task_id).close()

    async def _settle(self, record: TaskRecord) -> None:
        await self._lifecycle.show_if_held(record)
        if (doubt := self._doubts.pop(record.task_id, None)) is not None:
            doubt.close()
