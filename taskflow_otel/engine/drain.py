"""The end of a life: let running attempts finish, cancel the rest, and leave what is promised in the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from taskflow_otel.engine.attempt import SHUTDOWN
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks, Phase
from taskflow_otel.engine.timers import Timers
from taskflow_otel.model.status import Transition

logger = logging.getLogger("taskflow_otel.engine")

_WAITING = frozenset({Phase.READY, Phase.DELAYED, Phase.HELD})


class Drain:
    """Empties the engine.

    `shutdown_timeout`: seconds that running attempts get to end by themselves. `cancel_grace`: seconds that they get
    after they were cancelled, before they are abandoned.
    """

    def __init__(
        self,
        tasks: LiveTasks,
        attempts: Collection[asyncio.Task[None]],
        dispatcher: Dispatcher,
        timers: Timers,
        control: Control,
        lifecycle: Lifecycle,
        *,
        shutdown_timeout: float,
        cancel_grace: float,
    ) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._dispatcher = dispatcher
        self._timers = timers
        self._control = control
        self._lifecycle = lifecycle
        self._timeout = shutdown_timeout
        self._grace = cancel_grace

    async def run(self) -> None:
        """Start nothing more, and see every live task to where it may be left."""
        self._dispatcher.close()
        self._timers.clear()
        for task in [task for task in self._tasks if task.phase in _WAITING]:
            await self.leave(task)
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=self._timeout)
        for task in self._tasks:
            if task.phase in {Phase.STARTING, Phase.RUNNING}:
                await self._control.stop(task, SHUTDOWN)
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=self._grace)
        for task in self._tasks:
            if task.phase is Phase.RUNNING:
                logger.error("task %s (%s) ignored its cancellation and is abandoned", task.id, task.record.func_name)
                task.phase = Phase.ENDING
                await self._lifecycle.move(task, Transition.INTERRUPTED, reason=SHUTDOWN)

    async def leave(self, task: LiveTask) -> None:
        """A persisted task that waits stays in the ledger, for the next life; another never runs, and says so."""
        if not (task.record.persisted and task.committed):
            await self._control.stop(task, SHUTDOWN)
