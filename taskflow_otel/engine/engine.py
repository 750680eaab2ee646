"""The engine: builds its parts, starts and drains them in order, and answers the rooms above."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any

from taskflow_otel.backends.base import Backend
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.attempt import AttemptRunner
from taskflow_otel.engine.attempts import Attempts
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.claims import Claims
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.door import Door
from taskflow_otel.engine.drain import Drain
from taskflow_otel.engine.executors.base import AsyncExecutor, Executor, ThreadExecutor
from taskflow_otel.engine.fleet.fleet_watch import FleetWatch
from taskflow_otel.engine.fleet.heartbeat import Heartbeat
from taskflow_otel.engine.fleet.queue_settings import QueueSettings
from taskflow_otel.engine.fleet.recovery import Recovery
from taskflow_otel.engine.fleet.remote_cancels import RemoteCancels
from taskflow_otel.engine.fleet.retention import Cleaner, delete_history
from taskflow_otel.engine.fleet.takeover import Takeover
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.late_commits import LateCommits
from taskflow_otel.engine.ledger.backend_health import Observe
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTasks, TaskStore
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.queues import Queues, QueueStats
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.engine.schedules.firing import NoMeter, ScheduleMeter
from taskflow_otel.engine.schedules.service import Schedules
from taskflow_otel.engine.settings import EngineSettings
from taskflow_otel.engine.task_output import TaskOutput
from taskflow_otel.errors import BackendError, BackendUnavailableError, NotStartedError, TaskflowError, TaskStateError
from taskflow_otel.model.cipher import PayloadCipher
from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.vocabulary import EngineState, ExecutorKind, Reason
from taskflow_otel.runtime.clock import Clock, SystemClock
from taskflow_otel.runtime.owned_tasks import OwnedTasks, bounded, gather_all
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.timers import Timers

logger = logging.getLogger("taskflow_otel.engine")

_CLEAN_INTERVAL = 60.0
_FLUSH_BEFORE_READ = 1.0
_TURN = 0.1
"""Seconds for work that needs only a turn of the event loop."""

# A name of this module, since looking a member up in its enum is a call, for each task.
_RUNNING = EngineState.RUNNING
_ACTIVE = frozenset({EngineState.RUNNING, EngineState.DRAINING})


class Engine:
    """Runs tasks.

    Everything here happens on one event loop, the one that `start` was called on. Only `door.add` may be called from
    any thread. `fleet_watched` returns whether someone follows the live stream; `tell_fleet` gives the stream a task
    of another instance; `observe` receives the duration of each backend operation.
    """

    def __init__(
        self,
        backend: Backend,
        bus: ObserverBus,
        registry: TaskRegistry,
        settings: EngineSettings,
        *,
        clock: Clock | None = None,
        cipher: PayloadCipher | None = None,
        extra_executors: Mapping[str, Executor] | None = None,
        observe: Observe = lambda *_: None,
        schedule_meter: ScheduleMeter | None = None,
        fleet_watched: Callable[[], bool] = lambda: False,
        tell_fleet: Callable[[TaskRecord], None] = lambda _: None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._backend = backend
        self._bus = bus
        self._settings = settings
        self._state = EngineState.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._attempts = OwnedTasks(_complain_of_attempt)
        self._background = OwnedTasks(_complain)
        self._executors: dict[str, Executor] = {
            ExecutorKind.ASYNC.value: AsyncExecutor(settings.max_concurrent_tasks),
            ExecutorKind.THREAD.value: ThreadExecutor(settings.max_sync_threads),
            **(extra_executors or {}),
        }
        self._tasks = LiveTasks(settings.finished_window)
        self.declaration_of = registry.leads_to
        self.store = TaskStore(self._tasks)
        """The live tasks of this process."""
        self._timers = Timers(self._clock)
        self._queues = Queues(settings.queues)
        interval = settings.heartbeat_interval
        self._heartbeat = Heartbeat(backend, self._clock, interval, settings.lease_seconds)
        self._ledger = Ledger(
            backend,
            self._clock,
            self._heartbeat,
            snapshot_interval=settings.snapshot_interval,
            commit_timeout=settings.commit_timeout,
            observe=observe,
        )
        self._lifecycle = Lifecycle(bus, self._ledger, self._tasks, self._clock)
        self._dispatcher = Dispatcher(self._queues, self._executors, self._clock)
        builder = TaskBuilder(
            registry,
            self._queues,
            self._clock,
            self._heartbeat,
            cipher=cipher,
            durable=backend.durable,
            persist_all=settings.persist_all,
        )
        intake = Intake(
            self._queues,
            self._tasks,
            self._lifecycle,
            self._ledger,
            self._dispatcher,
            self._timers,
            self._clock,
            self._heartbeat,
            self.call_on_loop,
        )
        self.door = Door(builder, intake, self._background, self.require_running, self.call_on_loop)
        """How tasks are added."""
        self._control = Control(
            backend,
            registry,
            self._tasks,
            self._queues,
            self._lifecycle,
            self._ledger,
            self._dispatcher,
            builder,
            intake,
            self._executors,
            self._timers,
            self._clock,
            cancel_grace=settings.cancel_grace,
        )
        self._drain = Drain(
            self._tasks,
            self._attempts,
            self._queues,
            self._dispatcher,
            self._control,
            self._clock,
            shutdown_timeout=settings.shutdown_timeout,
            cancel_grace=settings.cancel_grace,
        )
        attempts = Attempts(
            self._attempts,
            self._background,
            intake,
            self._control,
            self._drain,
            accepts=lambda: self._state is _RUNNING,
            complain=_complain_of_attempt,
        )
        runner = AttemptRunner(
            self._lifecycle,
            self._ledger,
            self._executors,
            self._clock,
            self._timers,
            builder=builder,
            output=TaskOutput(bus, self._ledger, self._tasks, self._clock, self.call_on_loop),
            slots=self._dispatcher,
            owner=attempts,
        )
        self._recovery = Recovery(
            registry,
            self._tasks,
            self._lifecycle,
            intake,
            self._clock,
            settings.max_crashes,
            patience=settings.commit_timeout,
        )
        self._takeover = Takeover(
            backend,
            self._clock,
            interval,
            self._heartbeat,
            registry.names,
            self._recovery.recover,
            () if cipher is None else cipher.seals,
        )
        self.schedules = Schedules(
            backend,
            builder,
            Claims(builder, intake, self._queues, self._tasks, self._lifecycle, self._ledger, self._heartbeat),
            registry,
            self._queues,
            self._tasks,
            self._timers,
            self._clock,
            interval,
            self._heartbeat,
            schedule_meter or NoMeter(),
            patience=settings.commit_timeout,
        )
        """Recurring schedules and planned runs."""
        self._queue_settings = QueueSettings(
            backend,
            self._clock,
            interval,
            self._queues,
            lambda: self._state is _RUNNING,
            self._dispatcher.pump,
        )
        self._services: list[Service] = [
            self._heartbeat,
            self._queue_settings,
            self._takeover,
            RemoteCancels(backend, self._clock, interval, self._heartbeat, self._cancel_for_another),
            FleetWatch(backend, self._clock, interval, self._heartbeat, fleet_watched, tell_fleet),
        ]
        if settings.retention_days is not None:
            retention = timedelta(days=settings.retention_days)
            self._services.append(Cleaner(backend, self._clock, _CLEAN_INTERVAL, retention))
        # Connections to parts that were built later are made here, and nowhere else.
        self._heartbeat.connect(rejoin=self._control.rejoin, introduce=self._introduce)
        self._ledger.connect(LateCommits(self._tasks, self._lifecycle, self._ledger, intake, self._background).applied)
        self._dispatcher.connect(attempts.starter(runner))

    @property
    def state(self) -> EngineState:
        """Where the engine stands."""
        return self._state

    @property
    def instance_id(self) -> str:
        """The id under which this process owns tasks."""
        return self._heartbeat.instance.instance_id

    @property
    def backend_failing(self) -> bool:
        """Whether the backend has not answered since its last failure, or keeps commits waiting."""
        return self._ledger.stalls

    @property
    def history_dropped(self) -> int:
        """How many finished tasks and log lines were never written, because the backend failed for too long."""
        return self._ledger.health.dropped_history

    def stuck(self) -> dict[str, int]:
        """How many attempts of each executor were asked to stop and still run."""
        counts = Counter(self._control.stuck.values())
        return {name: counts[name] for name in self._executors}

    def add_service(self, service: Service) -> None:
        """Start and stop a further service with the engine."""
        self._services.append(service)

    def unpublished(self) -> dict[str, int]:
        """The tasks for which the ledger may hold more than was published; see `LiveTasks.unpublished`."""
        return self._ledger.doubtful() | self._tasks.unpublished()

    async def start(self) -> None:
        """Open the backend, register this instance, take over the tasks of dead ones, and start running tasks.

        Raises the errors of `Backend.open`. After an error, all parts that were started are stopped again.
        """
        if self._state in _ACTIVE:
            raise TaskStateError(f"the engine is {self._state} already")
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        try:
            await self._backend.open()
        except BaseException:
            await self._backend.close()
            raise
        try:
            await self._bus.start()
            self._ledger.start()
            if self._state is EngineState.ABANDONED:
                # While the process lives, no other instance can see that this one is gone.
                await self._heartbeat.leave()
            await self._heartbeat.join()
            await self._queue_settings.tick()
            for executor in self._executors.values():
                await executor.start()
            for service in self._services:
                await service.start()
        except BaseException:
            await self._stop_parts(self._loop.time() + self._settings.shutdown_timeout)
            self._state = EngineState.STOPPED
            raise
        self._state = _RUNNING
        self._dispatcher.open()
        await self.schedules.start()
        self._background.own(self.schedules.tick())
        # Not awaited: the application need not wait for the tasks of dead instances.
        self._background.own(self._takeover.tick())

    def cut_short(self) -> None:
        """Stop waiting for running and waiting tasks; at the second call, also for cancelled ones."""
        self._drain.cut_short()

    @property
    def lost_its_loop(self) -> bool:
        """Whether the event loop was closed without `stop`."""
        return self._state in _ACTIVE and self._loop is not None and self._loop.is_closed()

    async def abandon(self) -> None:
        """Forget everything after the event loop was closed without `stop`; the next `start` takes the tasks over."""
        self._dispatcher.close()
        for task in self._tasks:
            if task.attempt is not None and not task.attempt.done():
                self._dispatcher.give_back(task)
            self._control.forget(task)
        for owned in (self._attempts, self._background):
            owned.abandon()
        self.schedules.abandon()
        self._timers.clear()
        limit = self._settings.cancel_grace
        parts = [executor.close(0) for executor in self._executors.values()]
        closing = [bounded(self._backend.close(), limit, f"the {self._backend.name} backend")]
        await gather_all([*parts, *closing])
        self._state = EngineState.ABANDONED

    async def stop(self) -> None:
        """Drain: take no new tasks, let running attempts end, cancel the rest, write every outcome, close all parts."""
        if self._state is not _RUNNING:
            return
        self._state = EngineState.DRAINING
        self._drain.begin()
        # The tasks of dead instances, and all firings from now on, are for the instances that stay.
        ending = gather_all([self.schedules.stop(), self._takeover.stop(), self._recovery.stop()])
        await bounded(ending, self._settings.cancel_grace / 5, "the watch over the other instances")
        await self._drain.run()
        await self._stop_parts(self._drain.deadline)
        self._state = EngineState.STOPPED

    def require_running(self) -> None:
        """Raise `NotStartedError` unless tasks can be taken."""
        if self._state is not _RUNNING:
            raise NotStartedError("not started" if self._state is EngineState.NEW else self._state.value)

    def call_on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        """Call on the engine's event loop: at once on its thread, else as soon as possible."""
        if threading.get_ident() == self._thread:
            callback(*args)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args, context=Context())

    async def get(self, task_id: str) -> TaskRecord:
        """A snapshot of one task of any instance; raises `TaskNotFoundError`."""
        return await self._control.get(task_id)

    async def logs(self, task_id: str) -> list[LogEntry]:
        """The log of one task, in order."""
        await self._ledger.flush(_FLUSH_BEFORE_READ)
        return await self._backend.logs(task_id)

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of the tasks of all instances, newest first."""
        await self._ledger.flush(_FLUSH_BEFORE_READ)
        return await self._backend.page(query)

    async def counts(self, query: TaskQuery) -> TaskCounts:
        """Counts of the tasks of all instances."""
        await self._ledger.flush(_FLUSH_BEFORE_READ)
        return await self._backend.counts(query)

    async def cancel(self, task_id: str) -> TaskRecord:
        """Cancel a task of any instance; raises `TaskNotFoundError` or `TaskStateError`."""
        return await self._control.cancel(task_id)

    async def retry(self, task_id: str, *, rerun: bool = False) -> TaskRecord:
        """Make a new task from a finished one; see `Control.retry`."""
        self.require_running()
        return await self._control.retry(task_id, rerun=rerun)

    def wait(self, task_id: str, timeout: float | None = None) -> Coroutine[Any, Any, TaskRecord]:
        """Return the task once it has finished; raises `TaskNotFoundError` or `TimeoutError`."""
        return self._control.wait(task_id, timeout)

    async def delete_history(self, before: datetime) -> int:
        """Delete finished tasks that ended before a moment; return how many."""
        return await delete_history(self._backend, self._clock, before)

    async def instances(self) -> list[Instance]:
        """All instances that share the backend."""
        return await self._backend.instances()

    def queue_stats(self) -> dict[str, QueueStats]:
        """The queues of this process now."""
        now = self._clock.monotonic()
        return {queue.name: queue.stats(now) for queue in self._queues.all()}

    def slots(self) -> dict[str, tuple[int, int | None]]:
        """How many attempts each executor runs, and its limit."""
        return {name: (slots.used, slots.capacity) for name, slots in self._dispatcher.slots.items()}

    async def update_queue_config(
        self,
        name: str,
        *,
        concurrency: int | EllipsisType | None = ...,
        max_size: int | EllipsisType | None = ...,
    ) -> None:
        """Change the limits of a queue on all instances, permanently: `...` keeps a limit, `None` removes it.

        Raises `UnknownQueueError`, `ConfigurationError`, and `BackendError` if the change could not be stored.
        """
        fields: dict[str, int | None] = {}
        if not isinstance(concurrency, EllipsisType):
            fields["concurrency"] = concurrency
        if not isinstance(max_size, EllipsisType):
            fields["max_size"] = max_size
        await self._queue_settings.change(name, fields)

    async def pause_queue(self, name: str) -> None:
        """Start no further task of a queue, on all instances, also after a restart; running tasks continue."""
        await self._queue_settings.change(name, {"paused": True})

    async def resume_queue(self, name: str) -> None:
        """Start the tasks of a queue again."""
        await self._queue_settings.change(name, {"paused": False})

    def check_queue(self, name: str) -> None:
        """Raise `UnknownQueueError` unless there is such a queue."""
        self._queues.get(name)

    async def _cancel_for_another(self, task_id: str) -> None:
        task = self._tasks.live(task_id)
        if task is not None and task.cancel_reason is None and task.phase not in {Phase.ENDING, Phase.GONE}:
            await self._control.stop(task, Reason.CANCELLED)

    async def _introduce(self) -> None:
        for service in self._services:
            await service.introduce()

    async def _stop_parts(self, deadline: float) -> None:
        """Close all parts by `deadline`, an event-loop time; later only while the backend still answers."""
        grace, loop = self._settings.cancel_grace, asyncio.get_running_loop()
        last = grace / 5

        def left(reserve: float = 0.0) -> float:
            return max(_TURN, deadline - reserve - loop.time())

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

    async def _sign_off(self, limit: float) -> None:
        try:
            await asyncio.wait_for(self._heartbeat.leave(), limit)
        except (BackendError, TimeoutError) as exc:
            logger.error("this instance could not sign off (%s); its lease must run out", str(exc) or "no answer")


def _complain(exc: BaseException) -> None:
    logger.error("%s", exc, exc_info=None if isinstance(exc, TaskflowError) else exc)


def _complain_of_attempt(exc: BaseException) -> None:
    if isinstance(exc, BackendUnavailableError):
        # The event loop is being closed during the attempt.
        logger.error("the outcome of an attempt could not be written: %s", exc)
        return
    logger.critical("an attempt ended with an error of the engine: %s", exc, exc_info=exc)
