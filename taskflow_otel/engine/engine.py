"""The engine: builds its parts, and gives each what it needs."""

from __future__ import annotations

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
from taskflow_otel.engine.start_and_stop import StartAndStop
from taskflow_otel.engine.task_output import TaskOutput
from taskflow_otel.engine.ticks import Ticks
from taskflow_otel.engine.transactions import Transactions
from taskflow_otel.engine.vitals import Vitals
from taskflow_otel.errors import TaskflowError
from taskflow_otel.model.cipher import PayloadCipher
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import EngineState, ExecutorKind
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.timers import Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_CLEAN_INTERVAL = 60.0


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
        self._backend = backend
        self._life = Life()
        running, background = OwnedTasks(log_attempt_error), OwnedTasks(_log_error)
        executors: dict[str, Executor] = {
            ExecutorKind.ASYNC.value: AsyncExecutor(settings.max_concurrent_tasks),
            ExecutorKind.THREAD.value: ThreadExecutor(settings.max_sync_threads),
            **(extra_executors or {}),
        }
        self._tasks = LiveTasks(settings.finished_window)
        self.store: TaskStore = TaskStore(self._tasks)
        """The live tasks of this process."""
        timers = Timers(clock)
        shared = settings.shared_queues(backend)
        queues = Queues(settings.queues, shared, settings.deployment.claims)
        interval = settings.heartbeat_interval
        self._heartbeat = Heartbeat(backend, clock, interval, settings.lease_seconds)
        self._ledger = Ledger(
            backend,
            clock,
            self._heartbeat,
            snapshot_interval=settings.snapshot_interval,
            commit_timeout=settings.commit_timeout,
            observe=observe,
        )
        spans = SpanBook(backend, self._ledger, cipher)
        lifecycle = Lifecycle(bus, self._ledger, self._tasks, clock, spans)
        dispatcher = Dispatcher(queues, executors, clock)
        builder = TaskBuilder(
            registry,
            queues,
            clock,
            self._heartbeat,
            cipher=cipher,
            durable=backend.durable,
            persist_all=settings.persist_all,
        )
        self.objectives: ObjectiveWatch = ObjectiveWatch(
            lifecycle, self._ledger, self._tasks, timers, clock, background, registry
        )
        """The objectives of task types."""
        self.types: TaskRegistry = registry
        """The task types of this process."""
        intake = Intake(
            queues,
            self._tasks,
            lifecycle,
            self._ledger,
            dispatcher,
            timers,
            clock,
            self._heartbeat,
            self._life,
            self.objectives,
        )
        patience = Patience(clock, lambda: self._backend_is_away, lambda: self._heartbeat.heard_at)
        self.lookup: Lookup = Lookup(backend, self._ledger, self._tasks, clock, self._life, patience, spans)
        """Reads tasks."""
        self.transactions: Transactions = Transactions(
            backend, builder, queues, intake, self._tasks, lifecycle, clock, self._heartbeat, self._life,
            background,
        )  # fmt: skip
        self.door: Door = Door(builder, intake, self.lookup, registry, self._life, background, self.transactions)
        """How tasks are added."""
        output = TaskOutput(bus, self._ledger, self._tasks, clock, self._life)
        stacks = Stacks(self._tasks, executors, output)
        self.control: Control = Control(
            backend,
            self.lookup,
            self._tasks,
            queues,
            lifecycle,
            self._ledger,
            dispatcher,
            intake,
            executors,
            timers,
            self._life,
            stacks,
            cancel_grace=settings.cancel_grace,
        )
        """Cancels tasks."""
        self.retries: Retries = Retries(
            self.lookup, registry, self._tasks, lifecycle, self._ledger, builder, intake, self._life
        )
        """Retries tasks."""
        self.vitals: Vitals = Vitals(self._tasks, self._ledger, dispatcher, self.control)
        """The numbers of the engine itself."""
        self._drain = Drain(
            self._tasks,
            running,
            queues,
            dispatcher,
            self.control,
            clock,
            shutdown_timeout=settings.shutdown_timeout,
            cancel_grace=settings.cancel_grace,
        )
        attempts = Attempts(running, background, intake, self.control, self._drain, self._life, log_attempt_error)
        runner = AttemptRunner(
            lifecycle,
            self._ledger,
            executors,
            clock,
            timers,
            builder=builder,
            output=output,
            slots=dispatcher,
            owner=attempts,
        )
        recovery = Recovery(
            registry,
            self._tasks,
            lifecycle,
            intake,
            clock,
            settings.max_crashes,
            patience=settings.commit_timeout,
        )
        takeover = Takeover(
            backend,
            clock,
            interval,
            self._heartbeat,
            registry.names,
            recovery.recover,
            builder.seals,
        )
        self.schedules: Schedules = Schedules(
            backend,
            builder,
            Claims(builder, intake, queues, self._tasks, lifecycle, self._ledger, self._heartbeat),
            registry,
            queues,
            self._tasks,
            timers,
            clock,
            interval,
            self._heartbeat,
            schedule_meter or NoMeter(),
            self._life,
            patience=settings.commit_timeout,
        )
        """Recurring schedules and planned runs."""
        self.queues: QueueSettings = QueueSettings(
            backend,
            clock,
            interval,
            queues,
            self._life,
            dispatcher.pump,
        )
        """The queues, as people see and change them."""
        retention = None if settings.retention_days is None else timedelta(days=settings.retention_days)
        self.cleaner: Cleaner = Cleaner(backend, clock, _CLEAN_INTERVAL, retention, self._tasks, self._life)
        """Deletes history."""
        self.board: Board = Board(
            backend, clock, interval, self._heartbeat, self._life, self.queues.stats, self.schedules.statuses,
            kind=settings.deployment.kind, release=settings.release,
        )  # fmt: skip
        """What each instance says of itself."""
        self.stacks: StackRequests = StackRequests(
            backend, clock, interval, self._heartbeat, self._life, self.lookup, stacks
        )
        """Where running tasks are."""
        self.shared: SharedValues = SharedValues(backend, self._life)
        """Small values that all instances share."""
        office = Office(
            backend, bus, clock, interval, self._heartbeat, self._life, self.lookup, self.retries, self.control,
            self.cleaner.delete_tasks,
            None if settings.audit_retention_days is None else timedelta(days=settings.audit_retention_days),
        )  # fmt: skip
        self.audit: AuditTrail = office.audit
        """What people do through the administration."""
        self.operations: Operations = office.operations
        """Work on many tasks."""
        cancels = RemoteCancels(backend, clock, interval, self._heartbeat, self.control, self._life, background)
        services: list[Service] = [
            self._heartbeat,
            self.queues,
            takeover,
            cancels,
            FleetWatch(backend, clock, interval, self._heartbeat, fleet_watched, publish_remote, self._tasks.record),
            self.board,
            self.stacks,
            Blocks(self._tasks, stacks, running, settings.blocked_after, clock, count_blocked),
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
                backend, shared, settings.deployment, queues, dispatcher, intake, registry, self._tasks,
                lifecycle, self.control, cancels, self.objectives, self.lookup, self.board, self.transactions,
                clock, self._heartbeat, self._life, background, durable=backend.durable, interval=interval,
                seals=builder.seals,
            )  # fmt: skip
            shared_finders, self.pool, self.doorbells = sharing.finders, sharing.watch, sharing.doorbells
            services += sharing.services
        if retention is not None:
            services.append(self.cleaner)
        if isinstance(backend, KeepsFigures):
            services.append(FigureCleaner(backend.figure_store, clock, _CLEAN_INTERVAL))
        finders: list[Service] = [self._heartbeat, takeover, self.schedules, self.transactions]
        finders += shared_finders
        self.ticks: Ticks = Ticks(
            [one.tick for one in finders], lambda: self.schedules.firing, timers, dispatcher, self._tasks,
            clock, self._life,
        )  # fmt: skip
        """Rounds of everything that is due."""
        self._start_and_stop = StartAndStop(
            backend, bus, self._ledger, self._heartbeat, executors, self.queues, dispatcher, self.schedules, takeover,
            recovery, self._drain, self._tasks, self.control, self.objectives, timers, running, background, self._life,
            services, shutdown_timeout=settings.shutdown_timeout, cancel_grace=settings.cancel_grace,
        )  # fmt: skip
        # Connections to parts that were built later are made here, and nowhere else.
        self._heartbeat.connect(rejoin=self.control.rejoin, introduce=self._start_and_stop.introduce)
        late = LateCommits(self._tasks, lifecycle, self._ledger, intake, background, backend.request_cancel, clock)
        self._ledger.connect(late.applied)
        attempts.connect(runner)
        dispatcher.connect(attempts.start)

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
        self._start_and_stop.add(service)

    def keep_finished(self, days: float) -> None:
        """Delete finished tasks that are older than these days; raises `ConfigurationError`. Before the start only."""
        self.cleaner.retention = retention_of("retention_days", days)
        self.add_service(self.cleaner)

    async def start(self) -> None:
        """Open the backend, register this instance, take over the tasks of dead ones, and start running tasks.

        Raises the errors of `Backend.open`. After an error, all parts that were started are stopped again.
        """
        await self._start_and_stop.start()

    async def stop(self) -> None:
        """Drain: take no new tasks, let running attempts end, cancel the rest, write every outcome, close all parts."""
        await self._start_and_stop.stop()

    def cut_short(self) -> None:
        """Stop waiting for running and waiting tasks; at the second call, also for cancelled ones."""
        self._drain.cut_short()

    async def abandon(self) -> None:
        """Forget everything after the event loop was closed without `stop`; the next `start` takes the tasks over.

        In a forked child nothing is taken over: everything belongs to the parent.
        """
        await self._start_and_stop.abandon()

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


def _log_error(exc: BaseException) -> None:
    logger.error("%s", exc, exc_info=None if isinstance(exc, TaskflowError) else exc)
