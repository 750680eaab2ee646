"""The engine: builds its parts, starts them and drains them in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any

from taskflow_otel.backends.admin import KeepsFigures
from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.measured import MeasuredBackend
from taskflow_otel.backends.pool import KeepsPool
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.admin.audit_trail import AuditTrail
from taskflow_otel.engine.admin.office import Office
from taskflow_otel.engine.admin.operations import Operations
from taskflow_otel.engine.attempt import AttemptRunner
from taskflow_otel.engine.attempts import Attempts, log_attempt_error
from taskflow_otel.engine.blocks import Blocks
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.claims import Claims
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.door import Door
from taskflow_otel.engine.drain import Drain
from taskflow_otel.engine.executors.base import Executor
from taskflow_otel.engine.executors.coroutines import AsyncExecutor
from taskflow_otel.engine.executors.threads import ThreadExecutor
from taskflow_otel.engine.fleet.board import Board
from taskflow_otel.engine.fleet.doorbells import Doorbells
from taskflow_otel.engine.fleet.fleet_watch import FleetWatch
from taskflow_otel.engine.fleet.heartbeat import Heartbeat
from taskflow_otel.engine.fleet.pool_watch import PoolWatch
from taskflow_otel.engine.fleet.queue_settings import QueueSettings
from taskflow_otel.engine.fleet.recovery import Recovery
from taskflow_otel.engine.fleet.remote_cancels import RemoteCancels
from taskflow_otel.engine.fleet.retention import Cleaner, FigureCleaner
from taskflow_otel.engine.fleet.stack_requests import StackRequests
from taskflow_otel.engine.fleet.takeover import Takeover
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.late_commits import LateCommits
from taskflow_otel.engine.ledger.backend_health import Observe
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTasks, TaskStore
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.objectives import ObjectiveWatch
from taskflow_otel.engine.patience import Patience
from taskflow_otel.engine.queues import Queues
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.engine.retries import Retries
from taskflow_otel.engine.schedules.firing import NoMeter, ScheduleMeter
from taskflow_otel.engine.schedules.service import Schedules
from taskflow_otel.engine.settings import EngineSettings, retention_of
from taskflow_otel.engine.shared import SharedValues
from taskflow_otel.engine.sharing import Sharing
from taskflow_otel.engine.span_book import SpanBook
from taskflow_otel.engine.stacks import Stacks
from taskflow_otel.engine.task_output import TaskOutput
from taskflow_otel.engine.ticks import Ticks
from taskflow_otel.engine.transactions import Transactions
from taskflow_otel.engine.vitals import Vitals
from taskflow_otel.errors import BackendError, TaskflowError
from taskflow_otel.model.cipher import PayloadCipher
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import EngineState, ExecutorKind
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks, bounded, gather_all
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.timers import Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_CLEAN_INTERVAL = 60.0
_TURN = 0.1
"""Seconds for work that needs only a turn of the event loop."""


class Engine:
    """Runs tasks.

    Everything here happens on one event loop, the one that `start` was called on. Only `door.add` may be called from
    any thread. `fleet_watched` returns whether someone follows the live stream; `publish_remote` gives the stream a
    task of another instance; `observe` receives the duration of each backend operation, `count_blocked` that of each
    time in which a task type blocked the event loop.
    """

    def __init__(
        self,
        backend: Backend,
        bus: ObserverBus,
        registry: TaskRegistry,
        settings: EngineSettings,
        *,
        clock: Clock = SYSTEM_CLOCK,
        cipher: PayloadCipher | None = None,
        extra_executors: Mapping[str, Executor] | None = None,
        observe: Observe = lambda *_: None,
        count_blocked: Callable[[str, float], None] = lambda *_: None,
        schedule_meter: ScheduleMeter | None = None,
        fleet_watched: Callable[[], bool] = lambda: False,
        publish_remote: Callable[[TaskRecord], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._backend = backend
        self._bus = bus
        self._settings = settings
        self._life = Life()
        self._attempts = OwnedTasks(log_attempt_error)
        self._background = OwnedTasks(_log_error)
        self._executors: dict[str, Executor] = {
            ExecutorKind.ASYNC.value: AsyncExecutor(settings.max_concurrent_tasks),
            ExecutorKind.THREAD.value: ThreadExecutor(settings.max_sync_threads),
            **(extra_executors or {}),
        }
        self._tasks = LiveTasks(settings.finished_window)
        self.store: TaskStore = TaskStore(self._tasks)
        """The live tasks of this process."""
        self._timers = Timers(self._clock)
        shared = settings.shared_queues(backend)
        queues = Queues(settings.queues, shared, settings.deployment.claims)
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
        spans = SpanBook(backend, self._ledger, cipher)
        self._lifecycle = Lifecycle(bus, self._ledger, self._tasks, self._clock, spans)
        self._dispatcher = Dispatcher(queues, self._executors, self._clock)
        builder = TaskBuilder(
            registry,
            queues,
            self._clock,
            self._heartbeat,
            cipher=cipher,
            durable=backend.durable,
            persist_all=settings.persist_all,
        )
        self.objectives: ObjectiveWatch = ObjectiveWatch(
            self._lifecycle, self._ledger, self._tasks, self._timers, self._clock, self._background, registry
        )
        """The objectives of task types."""
        self.types: TaskRegistry = registry
        """The task types of this process."""
        intake = Intake(
            queues,
            self._tasks,
            self._lifecycle,
            self._ledger,
            self._dispatcher,
            self._timers,
            self._clock,
            self._heartbeat,
            self._life,
            self.objectives,
        )
        patience = Patience(self._clock, lambda: self._backend_is_away, lambda: self._heartbeat.heard_at)
        self.lookup: Lookup = Lookup(backend, self._ledger, self._tasks, self._clock, self._life, patience, spans)
        """Reads tasks."""
        self.transactions: Transactions = Transactions(
            backend, builder, queues, intake, self._tasks, self._lifecycle, self._clock, self._heartbeat, self._life,
            self._background,
        )  # fmt: skip
        self.door: Door = Door(builder, intake, self.lookup, registry, self._life, self._background, self.transactions)
        """How tasks are added."""
        output = TaskOutput(bus, self._ledger, self._tasks, self._clock, self._life)
        stacks = Stacks(self._tasks, self._executors, output)
        self.control: Control = Control(
            backend,
            self.lookup,
            self._tasks,
            queues,
            self._lifecycle,
            self._ledger,
            self._dispatcher,
            intake,
            self._executors,
            self._timers,
            self._life,
            stacks,
            cancel_grace=settings.cancel_grace,
        )
        """Cancels tasks."""
        self.retries: Retries = Retries(
            self.lookup, registry, self._tasks, self._lifecycle, self._ledger, builder, intake, self._life
        )
        """Retries tasks."""
        self.vitals: Vitals = Vitals(self._tasks, self._ledger, self._dispatcher, self.control)
        """The numbers of the engine itself."""
        self._drain = Drain(
            self._tasks,
            self._attempts,
            queues,
            self._dispatcher,
            self.control,
            self._clock,
            shutdown_timeout=settings.shutdown_timeout,
            cancel_grace=settings.cancel_grace,
        )
        attempts = Attempts(
            self._attempts, self._background, intake, self.control, self._drain, self._life, log_attempt_error
        )
        runner = AttemptRunner(
            self._lifecycle,
            self._ledger,
            self._executors,
            self._clock,
            self._timers,
            builder=builder,
            output=output,
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
            builder.seals,
        )
        self.schedules: Schedules = Schedules(
            backend,
            builder,
            Claims(builder, intake, queues, self._tasks, self._lifecycle, self._ledger, self._heartbeat),
            registry,
            queues,
            self._tasks,
            self._timers,
            self._clock,
            interval,
            self._heartbeat,
            schedule_meter or NoMeter(),
            self._life,
            patience=settings.commit_timeout,
        )
        """Recurring schedules and planned runs."""
        self.queues: QueueSettings = QueueSettings(
            backend,
            self._clock,
            interval,
            queues,
            self._life,
            self._dispatcher.pump,
        )
        """The queues, as people see and change them."""
        retention = None if settings.retention_days is None else timedelta(days=settings.retention_days)
        self.cleaner: Cleaner = Cleaner(backend, self._clock, _CLEAN_INTERVAL, retention, self._tasks, self._life)
        """Deletes history."""
        self.board: Board = Board(
            backend, self._clock, interval, self._heartbeat, self._life, self.queues.stats, self.schedules.statuses,
            kind=settings.deployment.kind, release=settings.release,
        )  # fmt: skip
        """What each instance says of itself."""
        self.stacks: StackRequests = StackRequests(
            backend, self._clock, interval, self._heartbeat, self._life, self.lookup, stacks
        )
        """Where running tasks are."""
        self.shared: SharedValues = SharedValues(backend, self._life)
        """Small values that all instances share."""
        office = Office(
            backend, bus, self._clock, interval, self._heartbeat, self._life, self.lookup, self.retries, self.control,
            self.cleaner.delete_tasks,
            None if settings.audit_retention_days is None else timedelta(days=settings.audit_retention_days),
        )  # fmt: skip
        self.audit: AuditTrail = office.audit
        """What people do through the administration."""
        self.operations: Operations = office.operations
        """Work on many tasks."""
        cancels = RemoteCancels(
            backend, self._clock, interval, self._heartbeat, self.control, self._life, self._background
        )
        self._services: list[Service] = [
            self._heartbeat,
            self.queues,
            self._takeover,
            cancels,
            FleetWatch(backend, self._clock, interval, self._heartbeat, fleet_watched, publish_remote),
            self.board,
            self.stacks,
            Blocks(self._tasks, stacks, self._attempts, settings.blocked_after, self._clock, count_blocked),
            *office.services,
            self.transactions,
        ]
        shared_finders: list[Service] = []
        self.pool: PoolWatch | None = None
        """What waits in the pool, if anything can."""
        self.doorbells: Doorbells | None = None
        """The messages that tell Celery of tasks in the pool; `None` on a backend without a pool."""
        if isinstance(backend, KeepsPool):
            sharing = Sharing(
                backend, shared, settings.deployment, queues, self._dispatcher, intake, registry, self._tasks,
                self._lifecycle, self.control, cancels, self.objectives, self.lookup, self.board, self.transactions,
                self._clock, self._heartbeat, self._life, self._background, durable=backend.durable, interval=interval,
                seals=builder.seals,
            )  # fmt: skip
            shared_finders, self.pool, self.doorbells = sharing.finders, sharing.watch, sharing.doorbells
            self._services += sharing.services
        if retention is not None:
            self._services.append(self.cleaner)
        if isinstance(backend, KeepsFigures):
            self._services.append(FigureCleaner(backend.figure_store, self._clock, _CLEAN_INTERVAL))
        finders: list[Service] = [self._heartbeat, self._takeover, self.schedules, self.transactions]
        finders += shared_finders
        self.ticks: Ticks = Ticks(
            [one.tick for one in finders], lambda: self.schedules.firing, self._timers, self._dispatcher, self._tasks,
            self._clock, self._life,
        )  # fmt: skip
        """Rounds of everything that is due."""
        # Connections to parts that were built later are made here, and nowhere else.
        self._heartbeat.connect(rejoin=self.control.rejoin, introduce=self._introduce)
        late = LateCommits(
            self._tasks, self._lifecycle, self._ledger, intake, self._background, backend.request_cancel, self._clock
        )
        self._ledger.connect(late.applied)
        attempts.connect(runner)
        self._dispatcher.connect(attempts.start)

    @property
    def state(self) -> EngineState:
        """The state of the engine."""
        return self._life.state

    @property
    def instance_id(self) -> str:
        """The id under which this process owns tasks."""
        return self._heartbeat.instance.instance_id

    @property
    def _backend_is_away(self) -> bool:
        """Whether the latest operations got no answer."""
        return self._ledger.stalls or (isinstance(self._backend, MeasuredBackend) and self._backend.failing)

    def add_service(self, service: Service) -> None:
        """Start and stop a further service with the engine."""
        self._services.append(service)

    def keep_finished(self, days: float) -> None:
        """Delete finished tasks that are older than these days; raises `ConfigurationError`. Before the start only."""
        self.cleaner.retention = retention_of("retention_days", days)
        if self.cleaner not in self._services:
            self.add_service(self.cleaner)

    async def start(self) -> None:
        """Open the backend, register this instance, take over the tasks of dead ones, and start running tasks.

        Raises the errors of `Backend.open`. After an error, all parts that were started are stopped again.
        """
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
            await self.queues.tick()
            for executor in self._executors.values():
                await executor.start()
            for service in self._services:
                await service.start()
        except BaseException:
            await self._stop_parts(asyncio.get_running_loop().time() + self._settings.shutdown_timeout)
            self._life.end(EngineState.STOPPED)
            raise
        self._life.state = EngineState.RUNNING
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
        return self._life.lost_its_loop

    @property
    def inherited(self) -> bool:
        """Whether it was started by the parent of this process, before a fork."""
        return self._life.inherited

    async def at_home(self, work: Coroutine[Any, Any, None]) -> None:
        """Await a coroutine on the event loop of the engine, while it has one; see `Life.run_at_home`."""
        await self._life.run_at_home(work)

    async def abandon(self) -> None:
        """Forget everything after the event loop was closed without `stop`; the next `start` takes the tasks over.

        In a forked child nothing is taken over: everything belongs to the parent.
        """
        self._dispatcher.close()
        for task in self._tasks:
            if task.attempt is not None and not task.attempt.done():
                self._dispatcher.give_back(task)
            self.control.forget(task)
        for owned in (self._attempts, self._background):
            owned.abandon()
        self.schedules.abandon()
        self._timers.clear()
        if self._life.inherited:
            # The parent of the fork uses the connections, threads and child processes, and the id of the instance.
            self._life.end(EngineState.STOPPED)
            return
        limit = self._settings.cancel_grace
        parts = [executor.close(0) for executor in self._executors.values()]
        closing = [bounded(self._backend.close(), limit, f"the {self._backend.name} backend")]
        await gather_all([*parts, *closing])
        self._life.end(EngineState.ABANDONED)

    async def stop(self) -> None:
        """Drain: take no new tasks, let running attempts end, cancel the rest, write every outcome, close all parts."""
        if not self._life.running:
            return
        self._life.state = EngineState.DRAINING
        self._drain.begin()
        # Other instances handle the tasks of dead instances and all later firings.
        ending = gather_all([self.schedules.stop(), self._takeover.stop(), self._recovery.stop()])
        await bounded(ending, self._settings.cancel_grace / 5, "the watch over the other instances")
        await self._drain.run()
        await self._stop_parts(self._drain.deadline)
        self._life.end(EngineState.STOPPED)

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
            self.control.forget(task)
        self.objectives.forget()

    async def _sign_off(self, limit: float) -> None:
        try:
            await asyncio.wait_for(self._heartbeat.leave(), limit)
        except (BackendError, TimeoutError) as exc:
            logger.error("this instance could not sign off (%s); its lease must run out", str(exc) or "no answer")


def _log_error(exc: BaseException) -> None:
    logger.error("%s", exc, exc_info=None if isinstance(exc, TaskflowError) else exc)
