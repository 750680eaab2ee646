"""`capture_logs`: standard `logging` records emitted inside a task also become that task's log entries."""

from __future__ import annotations

import logging

from taskflow_otel.engine.context import get_task_context
from taskflow_otel.model.plain import class_name, text_of
from taskflow_otel.model.vocabulary import LOG_LEVELS, LogLevel

_OWN = "taskflow_otel"


class TaskLogHandler(logging.Handler):
    """Adds each record to the log of the task in whose context it was emitted; ignores the library's own records."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        if record.name == _OWN or record.name.startswith(_OWN + "."):
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
        context.log(message, level, {"logger": record.name})
