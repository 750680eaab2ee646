"""`capture_logs`: standard `logging` records emitted inside a task also become that task's log entries."""

from __future__ import annotations

import logging

from taskflow_otel.compat.opentelemetry import exports_logging, is_exporting
from taskflow_otel.engine.context import get_task_context
from taskflow_otel.model.plain import class_name, text_of
from taskflow_otel.model.vocabulary import LOG_LEVELS, LogLevel

_OURS = ("taskflow_otel", "opentelemetry")
"""Loggers of this library and of the SDK: what they report is about the telemetry, not about the task. A failed export
that became a line of the task would be exported next."""


class TaskLogHandler(logging.Handler):
    """Adds each record to the log of the task in whose context it was emitted.

    It ignores the records of this library and of the SDK.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        if record.name.partition(".")[0] in _OURS or is_exporting():
            return
        context = get_task_context()
        if context is None:
            return
        level = max(
            (name for name, number in LOG_LEVELS.items() if number <= record.levelno),
            key=LOG_LEVELS.__getitem__,
            default=LogLevel.DEBUG.value,
        )
        try:
            message = self.format(record)
        except Exception as exc:  # arguments that do not fit the message, or whose `str()` fails
            message = f"{text_of(record.msg)} [its arguments could not be formatted: {class_name(type(exc))}]"
        context.log(message, level, {"logger": record.name}, exported=_is_exported(record))


def _is_exported(record: logging.LogRecord) -> bool:
    """Whether a handler of OpenTelemetry gets this record too."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(record.levelno >= handler.level and exports_logging(handler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
