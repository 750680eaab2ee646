"""The start and the stop of an engine: the order in which its parts begin, drain and close."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from taskflow_otel.backends.base import Backend
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.drain import Drain
from taskflow_otel.engine.executors.base import Executor
from taskflow_otel.engine.fleet.heartbeat import Heartbeat
from taskflow_otel.engine.fleet.queue_settings import QueueSettings
from taskflow_otel.engine.fleet.recovery import Recovery
from taskflow_otel.engine.fleet.takeover import Takeover
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.engine.objectives import ObjectiveWatch
from taskflow_otel.engine.schedules.service import Schedules
from taskflow_otel.errors import BackendError
from taskflow_otel.model.vocabulary import EngineState
from taskflow_otel.runtime.owned_tasks import TURN, OwnedTasks, bounded, gather_all
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.timers import Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")


class StartAndStop:
    """Starts the parts of one engine, drains it, and closes them.

    `shutdown_timeout` and `cancel_grace`: seconds; see `Drain`. `services` start in their order, before the schedules.
    """

    def __init__(
        self,
        backend: Backend,
        bus: ObserverBus,
        ledger: Ledger,
        heartbeat: Heartbeat,
        executors: Mapping[str, Executor],
        queues: QueueSettings,
        dispatcher: Dispatcher,
        schedules: Schedules,
        takeover: Takeover,
        recovery: Recovery,
        drain: Drain,
        tasks: LiveTasks,
        control: Control,
        objectives: ObjectiveWatch,
        timers: Timers,
        attempts: OwnedTasks,
        background: OwnedTasks,
        life: Life,
        services: Sequence[Service],
        *,
        shutdown_timeout: float,
        cancel_grace: float,
    ) -> None:
        self._backend = backend
        self._bus = bus
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._executors = executors
        self._queues = queues
        self._dispatcher = dispatcher
        self._schedules = schedules
        self._takeover = takeover
        self._recovery = recovery
        self._drain = drain
        self._tasks = tasks
        self._control = control
        self._objectives = objectives
        self._timers = timers
        self._attempts = attempts
        self._background = background
        self._life = life
        self._services = list(services)
        self._shutdown_timeout = shutdown_timeout
        self._cancel_grace = cancel_grace

    def add(self, service: Service) -> None:
        """Start and stop a further service, once."""
        if service not in self._services:
            self._services.append(service)

    async def start(self) -> None:
        """See `Engine.start`."""
        self._life.begin()
        try:
            await self._backend.open()
        except BaseException:
            await self._backend.close()
            self._life.end(self._life.state)
            raise
        try:
            await self._bus.start()
            self._ledger.start()
            if self._life.state is EngineState.ABANDONED:
                # While the process lives, no other instance can see that this one is gone.
                await self._heartbeat.leave()
            await self._heartbeat.join()
            await self._queues.tick()
            for executor in self._executors.values():
                await executor.start()
            for service in self._services:
                await service.start()
        except BaseException:
            await self._stop_parts(asyncio.get_running_loop().time() + self._shutdown_timeout)
            self._life.end(EngineState.STOPPED)
            raise
        self._life.state = EngineState.RUNNING
        self._dispatcher.open()
        await self._schedules.start()
        self._background.own(self._schedules.tick())
        # Not awaited: the application need not wait for the tasks of dead instances.
        self._background.own(self._takeover.tick())

    async def stop(self) -> None:
        """See `Engine.stop`."""
        if not self._life.running:
            return
        self._life.state = EngineState.DRAINING
        self._drain.begin()
        # Other instances handle the tasks of dead instances and all later firings.
        ending = gather_all([self._schedules.stop(), self._takeover.stop(), self._recovery.stop()])
        await bounded(ending, self._cancel_grace / 5, "the watch over the other instances")
        await self._drain.run()
        await self._stop_parts(self._drain.deadline)
        self._life.end(EngineState.STOPPED)

    async def abandon(self) -> None:
        """See `Engine.abandon`."""
        self._dispatcher.close()
        for task in self._tasks:
            if task.attempt is not None and not task.attempt.done():
                self._dispatcher.give_back(task)
            self._control.forget(task)
        for owned in (self._attempts, self._background):
            owned.abandon()
        self._schedules.abandon()
        self._timers.clear()
        if self._life.inherited:
            # The parent of the fork uses the connections, threads and child processes, and the id of the instance.
            self._life.end(EngineState.STOPPED)
            return
        limit = self._cancel_grace
        parts = [executor.close(0) for executor in self._executors.values()]
        closing = [bounded(self._backend.close(), limit, f"the {self._backend.name} backend")]
        await gather_all([*parts, *closing])
        self._life.end(EngineState.ABANDONED)

    async def introduce(self) -> None:
        """Let each service write what instances write of themselves, after the id of this one has changed."""
        for service in self._services:
            await service.introduce()

    async def _stop_parts(self, deadline: float) -> None:
        """Close all parts by `deadline`, an event-loop time; later only while the backend still answers."""
        grace, loop = self._cancel_grace, asyncio.get_running_loop()
        last = grace / 5

        def left(reserve: float = 0.0) -> float:
            return max(TURN, deadline - reserve - loop.time())

        await bounded(gather_all([service.stop() for service in self._services]), left(last), "the services")
        if self._background:
            await asyncio.wait(set(self._background), timeout=left(last))
        await self._recovery.stop()
        leftovers = [*self._background, *self._attempts]
        for leftover in leftovers:
            leftover.cancel()
        if leftovers:
            await asyncio.wait(leftovers, timeout=left(last))
        self._timers.clear()
        answers = await self._ledger.close(left(last), while_answering=grace)
        if not answers:
            logger.error("the backend did not take the last changes in time")
        limit = max(left(), grace) if answers else left()
        await gather_all([executor.close(left()) for executor in self._executors.values()])
        finishing = [bounded(service.finish(), limit, f"the {service.name} service") for service in self._services]
        await gather_all([*finishing, self._sign_off(limit)])
        closing = bounded(self._backend.close(), limit, f"the {self._backend.name} backend")
        await gather_all([self._bus.close(limit), closing])
        for task in self._tasks:
            # The ledger holds the task. If this engine starts again, it takes the task over like any instance.
            self._control.forget(task)
        self._objectives.forget()

    async def _sign_off(self, limit: float) -> None:
        try:
            await asyncio.wait_for(self._heartbeat.leave(), limit)
        except (BackendError, TimeoutError) as exc:
            logger.error("this instance could not sign off (%s); its lease must run out", str(exc) or "no answer")
