"""What a task function can read and report about itself: `get_task_context()` and `task_log()`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, Token
from typing import Any

from taskflow_otel.errors import ConfigurationError, TaskCancelledError
from taskflow_otel.model.plain import MAX_PROGRESS_TEXT, plain_extra, plain_number, repr_of, text_of
from taskflow_otel.model.record import Progress
from taskflow_otel.model.vocabulary import LOG_LEVELS, LogLevel

_outside_logger = logging.getLogger("taskflow_otel.task")
_current: ContextVar[TaskContext | None] = ContextVar("taskflow_otel_task_context", default=None)


class TaskContext:
    """The running attempt, as its own function sees it.

    Values from the function are converted here, before anyone else sees them: `on_log` and `on_progress` get finite,
    valid and bounded data, `on_log` also the number of its characters, and whether OpenTelemetry has it already. No
    value makes `log` or `progress` raise.
    """

    __slots__ = ("_cancelled", "_on_log", "_on_progress", "attempt", "func_name", "tags", "task_id")

    def __init__(
        self,
        task_id: str,
        func_name: str,
        attempt: int,
        tags: Mapping[str, str],
        on_log: Callable[[TaskContext, str, str, dict[str, Any], int, bool], None],
        on_progress: Callable[[TaskContext, Progress], None],
    ) -> None:
        self.task_id: str = task_id
        self.func_name: str = func_name
        self.attempt: int = attempt
        """Zero-based."""
        self.tags: Mapping[str, str] = tags
        self._on_log = on_log
        self._on_progress = on_progress
        # A plain attribute is safe across threads: it only changes from false to true.
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether this attempt was asked to stop (by a cancel, its timeout or the shutdown)."""
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """Raise `TaskCancelledError` if this attempt was asked to stop: the way out of a thread."""
        if self._cancelled:
            raise TaskCancelledError(f"{self.func_name} was asked to stop")

    def request_cancel(self) -> None:
        """Ask the attempt to stop; it sees that in `cancelled`."""
        self._cancelled = True

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress: `done` of `total` units, with an optional message. Shown live; callable from any thread.

        A `done` that is not a finite number counts as 0, such a `total` as unknown; the message then says so.
        """
        text = None if message is None else text_of(message, MAX_PROGRESS_TEXT)
        plain_done, plain_total = plain_number(done), None if total is None else plain_number(total)
        if plain_done is None:
            plain_done, text = 0, _noted(text, "done", done)
        if plain_total is None and total is not None:
            text = _noted(text, "total", total)
        self._on_progress(self, Progress(plain_done, plain_total, text))

    def log(self, message: str, level: str, extra: Mapping[str, Any], *, exported: bool = False) -> None:
        """Write one log entry; see `task_log`. `exported`: OpenTelemetry gets it from another source."""
        text = text_of(message)
        plain, size = plain_extra(extra) if extra else ({}, 0)
        self._on_log(self, text, level, plain, len(text) + size, exported)

    def forward_log(self, message: str, level: str, extra: dict[str, Any], size: int, exported: bool) -> None:
        """Write a log entry that another process has converted."""
        self._on_log(self, message, level, extra, size, exported)

    def forward_progress(self, progress: Progress) -> None:
        """Report progress that another process has converted."""
        self._on_progress(self, progress)


def _noted(text: str | None, name: str, value: object) -> str:
    note = f"[{name} was {repr_of(value)}, which is not a finite number]"
    return note if text is None else f"{text} {note}"


def get_task_context() -> TaskContext | None:
    """Return the context of the running task, or `None` outside one, as when the function was called directly."""
    return _current.get()


def task_context_in(context: Context) -> TaskContext | None:
    """The task context of code that runs in this context; `None` outside a task."""
    return context.get(_current)


def enter_task_context(context: TaskContext) -> Token[TaskContext | None]:
    """Make `context` the current task context; pass the returned token to `leave_task_context`."""
    return _current.set(context)


def leave_task_context(token: Token[TaskContext | None]) -> None:
    """Restore the task context from before `enter_task_context`."""
    _current.reset(token)


def task_log(message: str, *, level: str = LogLevel.INFO.value, **extra: Any) -> None:
    """Write a line to the running task's log: stored with the task, and passed to every exporter.

    `level` is one of debug, info, warning, error, critical; any other raises `ConfigurationError`. `extra` holds
    structured values: any object, stored as JSON data of bounded size (`taskflow_otel.model.plain`).
    Outside a task the line goes to the standard logger `taskflow_otel.task`.
    """
    if not isinstance(level, str) or (level := str.__str__(level)) not in LOG_LEVELS:
        raise ConfigurationError(f"level must be one of {', '.join(LOG_LEVELS)}, not {repr_of(level)}")
    context = _current.get()
    if context is None:
        _outside_logger.log(LOG_LEVELS[level], "%s", message, extra={"taskflow": extra} if extra else None)
    else:
        context.log(message, level, extra)
