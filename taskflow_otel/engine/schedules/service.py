"""Recurring schedules and planned runs together: the interface for the rooms above, and the watch for changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.claims import Claims
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.queues import Queues
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry
from taskflow_otel.engine.schedules.firing import Firing, ScheduleMeter
from taskflow_otel.engine.schedules.planned import LABEL, PlannedRuns
from taskflow_otel.engine.schedules.recurring import Scheduler
from taskflow_otel.errors import NotStartedError
from taskflow_otel.model.enqueue import EnqueueOptions
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.schedule import EPOCH, Schedule, ScheduledRun, ScheduleStatus
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.timers import Timers

_CHANGED = "schedules-changed"
_JUMP = timedelta(seconds=1)
_TIDY_ROUNDS = 600


class Schedules(Service):
    """Recurring schedules and planned runs of this process, synchronised with the other instances.

    Each round reads only one setting, which marks that something was changed. So a thousand unchanged schedules cost
    nothing.
    """

    def __init__(
        self,
        backend: Backend,
        builder: TaskBuilder,
        claims: Claims,
        registry: TaskRegistry,
        queues: Queues,
        tasks: LiveTasks,
        timers: Timers,
        clock: Clock,
        interval: float,
        membership: Membership,
        meter: ScheduleMeter,
        life: Life,
        *,
        patience: float,
    ) -> None:
        super().__init__("schedules", interval, clock)
        self._backend = backend
        self._clock = clock
        self.life = life
        self._scheduler = Scheduler(
            backend, Firing(backend, builder, claims, tasks, membership), timers, clock, meter, patience=patience
        )
        self._once = PlannedRuns(backend, builder, claims, registry, queues, timers, clock, meter)
        self._registry = registry
        self._meter = meter
        self._running = False
        self._seen: str | None = None
        self._read = False
        self._untold = False
        """The backend may hold a change that was not told to the other instances."""
        self._offset = timedelta()
        self._rounds_done = 0

    async def start(self) -> None:
        """Start to fire, and to watch for changes."""
        self._running, self._read, self._seen = True, False, None
        self._offset = self._wall_offset()
        self._meter.declared(LABEL)
        self._once.start()
        self._scheduler.start()
        await super().start()

    async def stop(self) -> None:
        """Fire no more."""
        self._running = False
        await super().stop()
        await self._once.stop()
        await self._scheduler.stop()

    def abandon(self) -> None:
        """Forget everything after the event loop was closed without `stop`."""
        self._running = False
        self._once.abandon()
        self._scheduler.abandon()

    async def tick(self) -> None:
        """Notice a jump of the wall clock, and changes by other instances."""
        offset = self._wall_offset()
        if abs(offset - self._offset) > _JUMP:
            self._offset = offset
            self._scheduler.clock_was_set()
        seen = (await self._backend.settings(_CHANGED)).get(_CHANGED)
        if seen != self._seen or not self._read:
            await self._scheduler.refresh()
            await self._once.refresh()
            self._seen, self._read = seen, True
        if self._untold:
            await self._tell()
        self._rounds_done += 1
        if self._rounds_done % _TIDY_ROUNDS == 0:
            await self._once.tidy()

    @property
    def firing(self) -> int:
        """How many pieces of work are in progress: firings, and the first look at those that were missed."""
        return self._scheduler.firing + self._once.firing

    def add(self, schedule: Schedule, definition: TaskDefinition) -> None:
        """Add a schedule; raises `ConfigurationError` if its name is taken."""
        self._scheduler.add(schedule, definition)

    def names(self) -> frozenset[str]:
        """The names of the recurring schedules."""
        return self._scheduler.names()

    def statuses(self) -> list[ScheduleStatus]:
        """The current status of the recurring schedules, by name. Callable from any thread."""
        return self._scheduler.statuses()

    @at_home
    async def run(self, name: str) -> TaskRecord:
        """Make one run now; raises `UnknownScheduleError`, `NotStartedError` and the errors of enqueueing."""
        self._require_running()
        return await self._scheduler.run(name)

    @at_home
    async def pause(self, name: str, by: str | None = None, reason: str | None = None) -> ScheduleStatus:
        """Stop firing on all instances until `resume`; raises `UnknownScheduleError`.

        `by` and `reason`: who wants it and why, for the people who wonder.
        """
        return await self._set_paused(name, True, by, reason)

    @at_home
    async def resume(self, name: str) -> ScheduleStatus:
        """Fire again; firings during the pause are not caught up. Raises `UnknownScheduleError`."""
        return await self._set_paused(name, False)

    @at_home
    async def once(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: EnqueueOptions,
        *,
        run_at: datetime,
        run_key: str | None,
    ) -> ScheduledRun:
        """Plan one run; see `PlannedRuns.plan`."""
        self._require_running()
        definition, args, kwargs = self._registry.resolve(func, args, kwargs)
        self._untold = True
        run = await self._once.plan(definition, args, kwargs, run_at=run_at, run_key=run_key, options=options)
        await self._tell()
        return run

    @at_home
    async def cancel_once(self, run_key: str) -> bool:
        """Drop a planned run; return `False` if it does not exist or has begun."""
        self._require_running()
        self._untold = True
        cancelled = await self._once.cancel(run_key)
        if cancelled:
            await self._tell()
        return cancelled

    @at_home
    async def planned(self) -> list[ScheduledRun]:
        """The planned runs of all instances, the next first."""
        self._require_running()
        return await self._once.list()

    async def _set_paused(
        self, name: str, paused: bool, by: str | None = None, reason: str | None = None
    ) -> ScheduleStatus:
        self._require_running()
        self._untold = True
        status = await self._scheduler.set_paused(name, paused, by, reason)
        await self._tell()
        return status

    async def _tell(self) -> None:
        """Let the other instances read what has changed; a round does it if the caller is gone, or got an error."""
        self._untold = True
        await self._backend.put_setting(_CHANGED, new_task_id())
        self._untold = False

    def _require_running(self) -> None:
        if not self._running:
            raise NotStartedError

    def _wall_offset(self) -> timedelta:
        """How far the wall clock is ahead of the monotonic clock; this changes when the wall clock is set."""
        return (self._clock.now() - EPOCH) - timedelta(seconds=self._clock.monotonic())
