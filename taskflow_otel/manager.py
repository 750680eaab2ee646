"""TaskManager: the composition root. It builds the parts, gives each what it needs, and owns start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import ParamSpec, TypeVar, Unpack
from zoneinfo import ZoneInfo

from fastapi import BackgroundTasks, FastAPI
from starlette.requests import HTTPConnection

from taskflow_otel import backends
from taskflow_otel.actions import TaskActions
from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.limits import LeaseAware
from taskflow_otel.backends.measured import MeasuredBackend
from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.backends.spans import KeepsSpans
from taskflow_otel.bus import ObserverBus, TaskObserver
from taskflow_otel.engine.decorators import TaskDecorators, takes_options_by_name
from taskflow_otel.engine.deployment import deployment
from taskflow_otel.engine.engine import Engine
from taskflow_otel.engine.executors.process import ProcessExecutor
from taskflow_otel.engine.executors.process_spans import SpanForwarder
from taskflow_otel.engine.log_capture import TaskLogHandler
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.engine.settings import EngineSettings, queue_configs
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.lines.file import FileLogger, FileMode
from taskflow_otel.exporters.otel.logs import LogsExporter
from taskflow_otel.exporters.otel.metrics import OtelMetricsExporter
from taskflow_otel.exporters.otel.span_keeper import SpanKeeper
from taskflow_otel.exporters.otel.spans import SpanContexts
from taskflow_otel.exporters.otel.tracing import TracingExporter
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.stream import LiveStream
from taskflow_otel.exporters.telemetry import Telemetry
from taskflow_otel.metrics.fleet import FleetMetrics
from taskflow_otel.metrics.sources import ScheduleMetrics, connect_metrics, count_blocked
from taskflow_otel.metrics.targets import target_address
from taskflow_otel.model.cipher import PayloadCipher
from taskflow_otel.model.options import QueueConfig, checked_release, flag, seconds
from taskflow_otel.model.schedule import CatchUp, Overlap, make_rule
from taskflow_otel.model.task_options import TaskOptions, shows_task_options
from taskflow_otel.model.vocabulary import ExecutorKind
from taskflow_otel.request.applications import Applications
from taskflow_otel.request.background import ManagedBackgroundTasks
from taskflow_otel.request.injection import tasks_of
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.garbage import FrozenHeap
from taskflow_otel.runtime.interrupts import on_signals

logger: logging.Logger = logging.getLogger("taskflow_otel")

P = ParamSpec("P")
R = TypeVar("R")


class TaskManager(TaskActions):
    """Turns background tasks into tasks that can be seen, kept and retried. One per application.

    `snapshot_db`: path of a SQLite file, shorthand for `snapshot_backend=SqliteBackend(path)`. `snapshot_backend`:
    any backend; it wins over `snapshot_db`. Without either, history is in memory and nothing can be persisted.
    `snapshot_interval`: the longest time in seconds before a transition of a task that is not persisted is written.
    `requeue_pending`: treat every decorated task as `persist=True`. `retention_days`: delete older finished tasks.
    `audit_retention_days`: delete older entries of the audit, and older bulk operations.
    `loggers`: observers; `log_file` and the options after it are shorthand for one `FileLogger`.
    `telemetry`: OpenTelemetry providers, propagation and metric settings. `capture_logs`: `logging` records emitted
    inside a task also become its log entries. `encrypt_args_key`: one Fernet key or several (rotation).
    `max_concurrent_tasks`: async tasks that run at once. `max_sync_threads`: size of the manager's own thread pool.
    `max_process_workers`: child processes for `executor="process"` (default: CPUs). `process_shutdown_timeout`:
    seconds that idle child processes get to exit at shutdown, before they are killed.
    `queues`: named queues. `max_size`: tasks that may wait in `"default"`. `shutdown_timeout`: seconds that a
    drain waits for running tasks. `cancel_grace`: seconds until a cancelled attempt that still runs is reported as
    stuck, or abandoned in a drain. `commit_timeout`: seconds that a response may wait for the commit of its tasks
    before the client gets 503. `blocked_after`: seconds from which a callback that keeps the event loop is reported,
    with the task and the line where it was; `None` watches nothing. `lease_seconds`: the tasks of an instance without a
    heartbeat for this long are taken over. `freeze_gc`: until the shutdown, full garbage collections skip what
    the process had at the start, and what survived an earlier one, and young objects are visited less often, unless
    the program has set thresholds of its own. `False` leaves the garbage collector of the process alone. `release`:
    that of the application, such as a version or a commit. It is a label of `taskflow_build_info`, by which the boards
    mark each release, an attribute of spans (`taskflow.release`), and a mark on the page's charts.
    `retry_replaces_original`: `False` is the only value, so that code written for fastapi-taskflow may say it: a retry
    is a new task, and history is never rewritten.
    `clock` is for tests.

    Raises `ConfigurationError` for any wrong setting, and `MissingExtraError` if a dependency is not installed.
    """

    def __init__(
        self,
        *,
        snapshot_db: str | os.PathLike[str] | None = None,
        snapshot_backend: Backend | None = None,
        snapshot_interval: float = 1.0,
        requeue_pending: bool = False,
        retention_days: float | None = None,
        audit_retention_days: float | None = 90.0,
        loggers: Sequence[TaskObserver] | None = None,
        log_file: str | os.PathLike[str] | None = None,
        log_file_max_bytes: int = 10 * 1024 * 1024,
        log_file_backup_count: int = 5,
        log_file_mode: FileMode = "rotate",
        log_lifecycle: bool = False,
        telemetry: Telemetry | None = None,
        capture_logs: bool = False,
        encrypt_args_key: str | bytes | Sequence[str | bytes] | None = None,
        max_concurrent_tasks: int | None = None,
        max_sync_threads: int | None = None,
        max_process_workers: int | None = None,
        process_shutdown_timeout: float = 30.0,
        queues: Mapping[str, QueueConfig] | None = None,
        max_size: int | None = None,
        shutdown_timeout: float = 10.0,
        cancel_grace: float = 5.0,
        commit_timeout: float = 5.0,
        blocked_after: float | None = 0.25,
        lease_seconds: float = 15.0,
        freeze_gc: bool = True,
        release: str | None = None,
        retry_replaces_original: bool = False,
        clock: Clock | None = None,
    ) -> None:
        telemetry = telemetry or Telemetry()
        lease_seconds = seconds("lease_seconds", lease_seconds, exclusive=True)
        clock = clock or SYSTEM_CLOCK
        self._frozen = FrozenHeap(wanted=flag("freeze_gc", freeze_gc))
        if flag("retry_replaces_original", retry_replaces_original):
            raise ConfigurationError(
                "retry_replaces_original=True is not supported: a retry is a new task, linked with the original by "
                "retry_of and retried_by. Leave it out, and delete history with retention_days."
            )
        settings = EngineSettings(
            persist_all=requeue_pending,
            queues=queue_configs(queues, max_size),
            deployment=deployment(),
            release=checked_release(release),
            max_concurrent_tasks=max_concurrent_tasks,
            max_sync_threads=max_sync_threads,
            snapshot_interval=snapshot_interval,
            retention_days=retention_days,
            audit_retention_days=audit_retention_days,
            shutdown_timeout=shutdown_timeout,
            cancel_grace=cancel_grace,
            blocked_after=blocked_after,
            commit_timeout=commit_timeout,
            lease_seconds=lease_seconds,
            heartbeat_interval=min(1.0, lease_seconds / 5),
        )
        cipher = None if encrypt_args_key is None else PayloadCipher(encrypt_args_key)
        chosen = _choose_backend(snapshot_db, snapshot_backend)
        if isinstance(chosen, LeaseAware):
            chosen.use_lease(lease_seconds)
        self._registry = TaskRegistry()
        self.metrics: PrometheusExporter = PrometheusExporter(
            telemetry.registry,
            max_label_values=telemetry.max_label_values,
            buckets=telemetry.buckets,
            release=settings.release,
            kind=settings.deployment.kind,
        )
        """Renders the metrics page."""
        self._backend = MeasuredBackend(chosen, clock, self.metrics.observe_backend)
        self.stream: LiveStream = LiveStream()
        """The live stream behind the dashboard."""
        observers = list(loggers or ())
        if log_file is not None:
            observers.append(
                FileLogger(
                    log_file,
                    max_bytes=log_file_max_bytes,
                    backup_count=log_file_backup_count,
                    mode=log_file_mode,
                    log_lifecycle=log_lifecycle,
                )
            )
        contexts = SpanContexts()
        kept = telemetry.keep_spans and isinstance(chosen, KeepsSpans)
        keeper = SpanKeeper(telemetry.span_attributes) if kept else None
        self._bus = ObserverBus(
            [
                # First, because it sets the ids that the others show.
                TracingExporter(
                    telemetry.tracer_provider,
                    propagation=telemetry.propagation,
                    contexts=contexts,
                    keeper=keeper,
                    release=settings.release,
                ),
                *([] if keeper is None else [keeper]),
                LogsExporter(telemetry.logger_provider, contexts=contexts),
                self.metrics,
                OtelMetricsExporter(self.metrics, telemetry.meter_provider, contexts=contexts),
                self.stream,
            ],
            observers,
        )
        self.engine: Engine = Engine(
            self._backend,
            self._bus,
            self._registry,
            settings,
            clock=clock,
            cipher=cipher,
            extra_executors={
                ExecutorKind.PROCESS.value: ProcessExecutor(
                    max_process_workers,
                    shutdown_timeout=process_shutdown_timeout,
                    forwarder=SpanForwarder(telemetry.tracer_provider),
                    capture_logs=capture_logs,
                )
            },
            observe=self.metrics.observe_backend,
            count_blocked=partial(count_blocked, self.metrics),
            schedule_meter=ScheduleMetrics(self.metrics),
            fleet_watched=lambda: self.stream.subscribers > 0,
            publish_remote=self.stream.inject,
        )
        """Runs the tasks."""
        self._decorators = TaskDecorators(self.engine, self._registry)
        self.metrics_page: FleetMetrics = FleetMetrics(
            self.metrics,
            self._backend,
            clock,
            instance_id=lambda: self.engine.instance_id,
            unpublished=self.engine.vitals.unpublished,
            address=partial(target_address, telemetry.metrics_target),
        )
        """The metrics of all workers behind one port, as one page; see `docs/metrics.md`."""
        if self._backend.durable:
            self.engine.add_service(self.metrics_page)
        self._log_handler = TaskLogHandler() if capture_logs else None
        self._lifecycle_lock: asyncio.Lock | None = None
        self._users = 0
        """Calls of `startup` without their `shutdown`: several applications may share one manager."""
        self._applications = Applications(self.engine.door, self._running)
        connect_metrics(self.metrics, self.engine, self._bus, self._registry, self._backend)

    @shows_task_options
    @takes_options_by_name
    def task(
        self, *, name: str | None = None, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Declare a function as a task type. The function itself is returned unchanged.

        `retries`: further attempts after a failed one. `delay`: seconds before the first retry, multiplied by
        `backoff` for each further one, capped at `max_delay`, spread by `jitter` (0.1 = ±10 %). `retry_on`,
        `no_retry_on`: exceptions that are, or are not, retried; an exception group is retried if each exception in
        it is, or if `retry_on` names a class of groups. `timeout`: seconds for one attempt. `persist`: keep the task
        across a crash. `requeue_on_interrupt`: run it again even if it was running at the crash. `name`: its identity
        (default: the function's name). `eager`: start at `add_task()`. `priority`: higher runs first (default 5).
        `queue`: a named queue. `executor`: `async`, `thread` or `process`, inferred from the function.
        `slo`: the share of its tasks that must succeed, and in which time: see `SLO`.

        Methods, `functools.partial` and decorators around the function lead to it and have its options. The task runs
        the function itself: to make a decorator part of the task, write `task` above it.

        Raises `ConfigurationError`, `DuplicateTaskNameError` or `UnknownQueueError`.
        """
        return self._decorators.task(name, options)

    @shows_task_options
    @takes_options_by_name
    def schedule(
        self,
        *,
        every: float | timedelta | None = None,
        cron: str | None = None,
        timezone: str | ZoneInfo = "UTC",
        run_on_startup: bool = False,
        catch_up: CatchUp = "skip",
        overlap: Overlap = "allow",
        name: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Run a function without arguments by a rule, once for each firing time across all instances.

        `every`: seconds or a `timedelta`, counted from 1970 in UTC, so that a restart shifts nothing. `cron`: five
        fields, six with the seconds last, or an alias such as `@daily`, on the wall clock of `timezone` (IANA name;
        extra `scheduler`). `run_on_startup`: also once when the first instance starts. `catch_up`: which missed
        firings run later: none, the latest, or all (up to 1,000). A firing is missed if no instance ran at its time,
        or if it is late by more than a quarter of the interval (at least 1 s, at most 1 min). `overlap`: with `skip`,
        a firing does not run while an earlier run of this schedule has not ended. `name`: the name of the schedule,
        and of the task type if the function is not a task yet. The other options are those of `task`. The decorator
        may be used several times, and above `task`.

        Raises `ConfigurationError`, `DuplicateTaskNameError`, `UnknownQueueError` or `MissingExtraError`.
        """
        rule = make_rule(every, cron, timezone)
        return self._decorators.schedule(
            rule, name, options, run_on_startup=run_on_startup, catch_up=catch_up, overlap=overlap
        )

    async def get_tasks(self, connection: HTTPConnection, background_tasks: BackgroundTasks) -> ManagedBackgroundTasks:
        """The request's tasks, as a dependency: `tasks: ManagedBackgroundTasks = Depends(task_manager.get_tasks)`."""
        return tasks_of(self.engine.door, connection.scope, background_tasks)

    @property
    def background_tasks(self) -> Callable[..., Awaitable[ManagedBackgroundTasks]]:
        """Another name of `get_tasks`: `Depends(task_manager.background_tasks)`."""
        return self.get_tasks

    def init_app(self, app: FastAPI) -> None:
        """Connect the manager to an application's lifespan and requests, without routes. Harmless to repeat.

        Routes that ask for `ManagedBackgroundTasks` get them; `install` does the same for the native annotation.
        Raises `ConfigurationError` if the application has already started.
        """
        self._applications.mount(app)

    def install(self, app: FastAPI) -> None:
        """Give the managed tasks to routes of this application that ask for `BackgroundTasks`.

        Raises `ConfigurationError` if they get those of another manager already, or the application has started.
        """
        self._applications.install(app)

    async def startup(self) -> None:
        """Start the engine; called by the lifespan. Each call needs its own `shutdown()`.

        Raises the errors of the backend if it cannot be opened.
        """
        if self.engine.lost_its_loop:
            await self._abandon()
        await self.engine.at_home(self._startup())

    async def _abandon(self) -> None:
        """Forget the run whose event loop was closed without `shutdown`."""
        if not self.engine.inherited:
            logger.warning(
                "the event loop of this TaskManager was closed without shutdown(): running tasks were cut off; the "
                "next start takes over those that are persisted"
            )
        self._users, self._lifecycle_lock = 0, None
        self._registry.close()
        self._stop_capture()
        await self.engine.abandon()

    async def _startup(self) -> None:
        if self._lifecycle_lock is None:
            self._lifecycle_lock = asyncio.Lock()
        async with self._lifecycle_lock:
            if self._users == 0:
                if self._log_handler is not None:
                    logging.getLogger().addHandler(self._log_handler)
                self._warn_of_unkept()
                try:
                    await self.engine.start()
                except BaseException:
                    self._stop_capture()
                    self._lifecycle_lock = None
                    raise
                self._registry.open()
                self._frozen.freeze()
            self._users += 1

    async def shutdown(self) -> None:
        """Drain and stop the engine; nothing runs after it has returned. Harmless if it is not running."""
        if self.engine.lost_its_loop:
            await self._abandon()
        await self.engine.at_home(self._shutdown())

    async def _shutdown(self) -> None:
        if self._lifecycle_lock is None:
            return
        async with self._lifecycle_lock:
            self._users -= 1
            if self._users > 0:
                return
            # Streams end first: the server waits for its connections, and need not wait for the drain as well.
            self.stream.close()
            try:
                with on_signals((signal.SIGINT,), self.engine.cut_short):
                    await self.engine.stop()
            finally:
                self._registry.close()
                self._stop_capture()
                self._frozen.thaw()
                # A manager may be started again, on another event loop (tests do).
                self._lifecycle_lock = None

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Run the manager during the lifespan of an application."""
        await self.startup()
        try:
            yield
        except asyncio.CancelledError:
            # The server did not wait for the lifespan: it was told a second time to stop.
            self.engine.cut_short()
            raise
        finally:
            await self.shutdown()

    def _stop_capture(self) -> None:
        if self._log_handler is not None:
            logging.getLogger().removeHandler(self._log_handler)

    def _warn_of_unkept(self) -> None:
        names = [definition.name for definition in self._registry.all() if definition.config.persist]
        if names and not self._backend.durable:
            logger.warning(
                "persist=True of %s has no effect: this TaskManager stores nothing that outlives its process. "
                "Give it snapshot_db='tasks.db' or a snapshot_backend.",
                ", ".join(names),
            )


def _choose_backend(path: str | os.PathLike[str] | None, backend: Backend | None) -> Backend:
    if backend is not None:
        if not isinstance(backend, Backend):
            raise ConfigurationError(f"snapshot_backend must be a Backend, not {type(backend).__name__}")
        return backend
    return MemoryBackend() if path is None else backends.SqliteBackend(path)
