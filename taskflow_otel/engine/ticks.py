"""A round of everything that is due, for a process that is frozen between requests: nothing runs there by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.engine.phase import Phase
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.timers import Timers

_STEP = 0.02
"""Seconds between two looks for what has ended or become due."""
_ACTIVE = frozenset({Phase.COMMITTING, Phase.STARTING, Phase.RUNNING, Phase.ENDING})


class Ticked(NamedTuple):
    """What a round has done."""

    started: int
    """Attempts that were started."""
    left: int
    """Tasks that still run or wait for a slot. They continue in the next round, or while the process is awake."""


class Ticks:
    """Runs what is due. `rounds`: what finds it, in this order; the last one is repeated as long as it finds tasks.

    `firing`: how many firings of schedules are in progress.
    """

    def __init__(
        self,
        rounds: Sequence[Callable[[], Awaitable[None]]],
        firing: Callable[[], int],
        timers: Timers,
        dispatcher: Dispatcher,
        tasks: LiveTasks,
        clock: Clock,
        life: Life,
    ) -> None:
        self._rounds = rounds
        self._firing = firing
        self._timers = timers
        self._dispatcher = dispatcher
        self._tasks = tasks
        self._clock = clock
        self.life = life

    @at_home
    async def tick(self, seconds: float) -> Ticked:
        """Find what is due and let it run, until nothing is left or for this time.

        Raises `NotStartedError`, and `BackendError` if nothing can be found.
        """
        self.life.require_running()
        deadline = self._clock.monotonic() + seconds
        before = known = self._dispatcher.started
        for one in self._rounds:
            await one()
        self._timers.look()
        self._end_delays()
        while self.life.running:
            # Timers that were due during the freeze get their turn.
            await asyncio.sleep(0)
            if not self._active():
                await self._rounds[-1]()
                if not self._active() and self._dispatcher.started == known:
                    break
            if self._clock.monotonic() >= deadline:
                break
            known = self._dispatcher.started
            await self._clock.sleep(_STEP)
        waiting = sum(task.phase is Phase.READY for task in self._tasks)
        return Ticked(self._dispatcher.started - before, self._active() + waiting)

    def _end_delays(self) -> None:
        """End the waits that would be over if the monotonic clock had gone on during a freeze."""
        now = self._clock.now()
        for task in self._tasks:
            run_at = task.record.run_at
            if task.phase is Phase.DELAYED and task.timer is not None and run_at is not None and run_at <= now:
                task.timer.end()

    def _active(self) -> int:
        """How many tasks do not wait for a slot or a time, those that schedules are about to add included.

        Those that wait for a slot of a paused queue have none.
        """
        return sum(task.phase in _ACTIVE for task in self._tasks) + self._firing()
