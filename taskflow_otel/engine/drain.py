"""The end of a life: let running attempts finish, cancel the rest, and leave what is promised in the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from taskflow_otel.engine.control import Control
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.membership import SHUTDOWN
from taskflow_otel.engine.phase import WAITING_PHASES, Phase

logger = logging.getLogger("taskflow_otel.engine")

_SLICE = 200
"""Tasks handled in one callback of the event loop before others get their turn."""


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
        control: Control,
        *,
        shutdown_timeout: float,
        cancel_grace: float,
    ) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._dispatcher = dispatcher
        self._control = control
        self._timeout = shutdown_timeout
        self._grace = cancel_grace

    async def run(self) -> None:
        """Start nothing more, and see every live task to where it may be left."""
        self._dispatcher.close()
        leaving = asyncio.create_task(self._leave_waiting())
        await asyncio.wait({leaving}, timeout=self._timeout)
        if not leaving.done():
            # The backend does not answer. What it still shows as waiting is settled in the next life.
            leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
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
                self._control.abandon(task)
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=self._grace)

    async def _leave_waiting(self) -> None:
        waiting = list(self._tasks)
        for start in range(0, len(waiting), _SLICE):
            # Together, so that they share their transactions.
            await asyncio.gather(*(self.leave(task) for task in waiting[start : start + _SLICE]))

    async def leave(self, task: LiveTask) -> None:
        """A persisted task that waits stays in the ledger, for the next life; another never runs, and says so."""
        if task.phase not in WAITING_PHASES:
            return
        if task.record.persisted and task.known:
            self._control.set_aside(task)
        else:
            await self._control.stop(task, SHUTDOWN)
