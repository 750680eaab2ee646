"""Shutdown: let running attempts finish, cancel the rest, and leave persisted tasks in the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection
from typing import Any

from taskflow_otel.engine.control import Control
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.phase import WAITING_PHASES, Phase
from taskflow_otel.engine.queues import Queues
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import TURN, in_slices

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_SLICE = 200
"""Tasks handled in one callback of the event loop before others get their turn."""
_NAMED = 20


class Drain:
    """Empties the engine.

    `shutdown_timeout`: seconds in which running attempts may end by themselves. Waiting tasks that are not persisted
    still run in this time, because no other instance can run them. `cancel_grace`: seconds for the rest: cancelled
    attempts end or are abandoned, and outcomes are written.
    """

    def __init__(
        self,
        tasks: LiveTasks,
        attempts: Collection[asyncio.Task[None]],
        queues: Queues,
        dispatcher: Dispatcher,
        control: Control,
        clock: Clock,
        *,
        shutdown_timeout: float,
        cancel_grace: float,
    ) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._queues = queues
        self._dispatcher = dispatcher
        self._control = control
        self._clock = clock
        self._timeout = shutdown_timeout
        self._grace = cancel_grace
        self._began = 0.0
        self._cuts = 0
        self._cut = asyncio.Event()
        self._given_up: Counter[str] = Counter()
        self.deadline: float = 0.0
        """Event-loop time at which the shutdown must be over."""

    def begin(self) -> None:
        """Start the time of one shutdown."""
        self._began = asyncio.get_running_loop().time()
        self.deadline = self._began + self._timeout + self._grace
        self._given_up.clear()

    def cut_short(self) -> None:
        """Stop waiting for running and waiting tasks; at the second call, also for cancelled ones."""
        self._cuts += 1
        self._cut.set()
        self._cut = asyncio.Event()

    def has_time(self, task: LiveTask, wait: float) -> bool:
        """Whether a task may still wait for `wait` seconds: only if no other instance can run it."""
        left = self._began + self._timeout - asyncio.get_running_loop().time()
        return self._dispatcher.draining and not self._cuts and not task.record.persisted and wait < left

    async def run(self) -> None:
        """End every live task or leave it in the ledger. Call `begin` first."""
        loop = asyncio.get_running_loop()
        self._dispatcher.drain(self._control.set_aside)
        expected = await self._part_waiting()
        await self._wait({*self._attempts, *expected}, self._began + self._timeout, cuts=1)
        self._dispatcher.close()
        leaving = asyncio.create_task(self._leave_waiting())
        for task in self._tasks:
            if task.phase in {Phase.STARTING, Phase.RUNNING}:
                await self._control.stop(task, Reason.SHUTDOWN)
        end = self.deadline = min(self.deadline, loop.time() + self._grace)
        # Abandoned attempts have an outcome too, which needs time to be written.
        await self._wait({leaving, *self._attempts}, end - self._grace / 5, cuts=2)
        for task in self._tasks:
            if task.phase is Phase.RUNNING:
                logger.error("task %s (%s) ignored its cancellation and is abandoned", task.id, task.record.func_name)
                self._control.abandon(task)
        await self._wait({leaving, *self._attempts}, max(end, loop.time() + TURN), cuts=3)
        # If the backend does not answer, the next start settles what it still shows as waiting.
        leaving.cancel()
        await asyncio.wait({leaving})
        self._say_what_was_given_up()
        self._cuts = 0

    async def _part_waiting(self) -> list[asyncio.Future[TaskRecord]]:
        """Leave persisted tasks to the next start; return futures that resolve when the others have ended."""
        loop = asyncio.get_running_loop()
        expected = []
        async for task in in_slices(self._tasks, _SLICE):
            if task.phase not in WAITING_PHASES:
                continue
            if task.record.persisted and task.known:
                self._control.set_aside(task)
            elif self._can_run(task):
                ended: asyncio.Future[TaskRecord] = loop.create_future()
                task.waiters = [*(task.waiters or ()), ended]
                expected.append(ended)
        return expected

    def _can_run(self, task: LiveTask) -> bool:
        """Whether a waiting task starts by itself before the time is up. A held task waits for its request."""
        if self._queues.of(task).paused:
            return False
        if task.phase is Phase.READY:
            return True
        if task.phase is not Phase.DELAYED:
            return False
        left = task.ready_at - self._clock.monotonic()
        if task.record.run_at is not None:
            left = max(left, (task.record.run_at - self._clock.now()).total_seconds())
        return self.has_time(task, left)

    async def _wait(self, work: set[asyncio.Future[Any]], until: float, *, cuts: int) -> None:
        """Wait for work until an event-loop time, or until the drain was cut short `cuts` times."""
        loop = asyncio.get_running_loop()
        ended = asyncio.ensure_future(_all(work))
        try:
            while not ended.done() and self._cuts < cuts and (left := until - loop.time()) > 0:
                cut = asyncio.ensure_future(self._cut.wait())
                await asyncio.wait({ended, cut}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                cut.cancel()
        finally:
            ended.cancel()

    async def _leave_waiting(self) -> None:
        waiting = list(self._tasks)
        for start in range(0, len(waiting), _SLICE):
            # All at once, so that they share transactions.
            await asyncio.gather(*(self.leave(task) for task in waiting[start : start + _SLICE]))

    async def leave(self, task: LiveTask) -> None:
        """Leave a waiting task: a persisted one stays in the ledger for the next start, any other is cancelled."""
        if task.phase not in WAITING_PHASES:
            return
        if task.record.persisted and task.known:
            self._control.set_aside(task)
        else:
            self._given_up[task.record.func_name] += 1
            await self._control.stop(task, Reason.SHUTDOWN)

    def _say_what_was_given_up(self) -> None:
        if self._given_up:
            names = [f"{name} ({number})" for name, number in self._given_up.most_common(_NAMED)]
            more = [] if len(self._given_up) <= _NAMED else [f"{len(self._given_up) - _NAMED} further names"]
            logger.warning(
                "the shutdown gave up %d waiting tasks that are not persisted; they are CANCELLED, reason %r: %s",
                self._given_up.total(),
                Reason.SHUTDOWN.value,
                ", ".join(names + more),
            )


async def _all(work: set[asyncio.Future[Any]]) -> None:
    if work:
        await asyncio.wait(work)
