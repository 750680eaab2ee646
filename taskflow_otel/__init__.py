"""FastAPI's `BackgroundTasks` as a task system with persistence, retries and telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskflow_otel import backends
from taskflow_otel.admin import TaskAdmin
from taskflow_otel.bus import TaskObserver
from taskflow_otel.engine.context import TaskContext, get_task_context, task_log
from taskflow_otel.errors import (
    AlreadyRetriedError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    DeclaredDeadError,
    DuplicateTaskNameError,
    IllegalTransitionError,
    KeyReusedError,
    MissingExtraError,
    NotStartedError,
    OperationNotFoundError,
    PersistenceError,
    QueueFullError,
    SchemaVersionError,
    StaleTokenError,
    TaskArgumentError,
    TaskCancelledError,
    TaskflowError,
    TaskNotFoundError,
    TaskProcessError,
    TaskStateError,
    TaskTimeoutError,
    UnknownQueueError,
    UnknownScheduleError,
    UnknownTaskError,
)
from taskflow_otel.exporters.chain import LoggerChain
from taskflow_otel.exporters.lines.file import FileLogger
from taskflow_otel.exporters.lines.stdout import StdoutLogger
from taskflow_otel.exporters.memory import InMemoryLogger
from taskflow_otel.exporters.otel.setup import configure_telemetry
from taskflow_otel.exporters.telemetry import Telemetry
from taskflow_otel.manager import TaskManager
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from taskflow_otel.model.objective import SLO
from taskflow_otel.model.options import QueueConfig
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.schedule import ScheduledRun, ScheduleStatus
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import TaskConfig
from taskflow_otel.request.background import ManagedBackgroundTasks
from taskflow_otel.version import __version__
from taskflow_otel.web.auth import TaskAuthBackend, User
from taskflow_otel.web.tokens import ApiToken

ScheduledOnce = ScheduledRun
"""The name that fastapi-taskflow has for it."""

if TYPE_CHECKING:
    from taskflow_otel.backends import RedisBackend, SqliteBackend

__all__ = [
    "SLO",
    "AlreadyRetriedError",
    "ApiToken",
    "BackendError",
    "BackendUnavailableError",
    "ConfigurationError",
    "DeclaredDeadError",
    "DuplicateTaskNameError",
    "FileLogger",
    "IllegalTransitionError",
    "InMemoryLogger",
    "KeyReusedError",
    "LifecycleEvent",
    "LogEvent",
    "LoggerChain",
    "ManagedBackgroundTasks",
    "MissingExtraError",
    "NotStartedError",
    "OperationNotFoundError",
    "PersistenceError",
    "QueueConfig",
    "QueueFullError",
    "RedisBackend",
    "ScheduleStatus",
    "ScheduledOnce",
    "ScheduledRun",
    "SchemaVersionError",
    "SqliteBackend",
    "StaleTokenError",
    "StdoutLogger",
    "TaskAdmin",
    "TaskArgumentError",
    "TaskAuthBackend",
    "TaskCancelledError",
    "TaskConfig",
    "TaskContext",
    "TaskManager",
    "TaskNotFoundError",
    "TaskObserver",
    "TaskProcessError",
    "TaskRecord",
    "TaskStateError",
    "TaskStatus",
    "TaskTimeoutError",
    "TaskflowError",
    "Telemetry",
    "UnknownQueueError",
    "UnknownScheduleError",
    "UnknownTaskError",
    "User",
    "__version__",
    "configure_telemetry",
    "get_task_context",
    "task_log",
]


def __getattr__(name: str) -> object:
    # The backends that load a database's library are loaded when they are first used.
    if name in __all__:
        return getattr(backends, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
