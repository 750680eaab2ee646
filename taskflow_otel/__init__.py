"""FastAPI's `BackgroundTasks` as a task system with persistence, retries and telemetry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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
from taskflow_otel.version import __version__

if TYPE_CHECKING:
    from taskflow_otel import backends as backends
    from taskflow_otel.admin import TaskAdmin
    from taskflow_otel.backends import RedisBackend, SqliteBackend
    from taskflow_otel.bus import TaskObserver
    from taskflow_otel.engine.context import TaskContext, get_task_context, task_log
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
    from taskflow_otel.web.auth import TaskAuthBackend, User
    from taskflow_otel.web.tokens import ApiToken

    ScheduledOnce = ScheduledRun
    """The name that fastapi-taskflow has for it."""

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

_HOMES = {
    "TaskAdmin": "admin",
    "RedisBackend": "backends",
    "SqliteBackend": "backends",
    "TaskObserver": "bus",
    "TaskContext": "engine.context",
    "get_task_context": "engine.context",
    "task_log": "engine.context",
    "LoggerChain": "exporters.chain",
    "FileLogger": "exporters.lines.file",
    "StdoutLogger": "exporters.lines.stdout",
    "InMemoryLogger": "exporters.memory",
    "configure_telemetry": "exporters.otel.setup",
    "Telemetry": "exporters.telemetry",
    "TaskManager": "manager",
    "LifecycleEvent": "model.events",
    "LogEvent": "model.events",
    "SLO": "model.objective",
    "QueueConfig": "model.options",
    "TaskRecord": "model.record",
    "ScheduledRun": "model.schedule",
    "ScheduleStatus": "model.schedule",
    "TaskStatus": "model.status",
    "TaskConfig": "model.task_options",
    "ManagedBackgroundTasks": "request.background",
    "TaskAuthBackend": "web.auth",
    "User": "web.auth",
    "ApiToken": "web.tokens",
}
"""The module of each name, which is loaded when the name is first used. The help of the command, the client and the
plugin of pytest need only small parts of the library."""


def __getattr__(name: str) -> object:
    if name == "backends":
        return import_module("taskflow_otel.backends")
    if name == "ScheduledOnce":
        found = __getattr__("ScheduledRun")
    elif name in _HOMES:
        found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
