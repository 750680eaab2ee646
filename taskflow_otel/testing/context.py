"""A task context without a task, for unit tests of functions that use one."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from taskflow_otel.engine.context import TaskContext, enter_task_context, leave_task_context
from taskflow_otel.model.enqueue import checked_tags
from taskflow_otel.model.record import Progress


@dataclass(frozen=True, slots=True)
class RecordedLog:
    """One line of `task_log`, as a task would store it."""

    message: str
    level: str
    extra: dict[str, Any]


class RecordedContext(TaskContext):
    """A `TaskContext` that records the function's output: `logs`, and `marks` of progress, in order.

    `request_cancel()` asks the function to stop, as a cancel or a timeout does.
    """

    __slots__ = ("logs", "marks")

    def __init__(self, task_id: str, func_name: str, attempt: int, tags: Mapping[str, str]) -> None:
        super().__init__(task_id, func_name, attempt, tags, self._keep_log, self._keep_progress)
        self.logs: list[RecordedLog] = []
        self.marks: list[Progress] = []

    @property
    def messages(self) -> list[str]:
        """The messages of the log lines."""
        return [line.message for line in self.logs]

    def _keep_log(
        self, _: TaskContext, message: str, level: str, extra: dict[str, Any], size: int, exported: bool
    ) -> None:
        self.logs.append(RecordedLog(message, level, extra))

    def _keep_progress(self, _: TaskContext, progress: Progress) -> None:
        self.marks.append(progress)


@contextlib.contextmanager
def task_context(
    *,
    attempt: int = 0,
    tags: Mapping[str, object] | None = None,
    task_id: str = "00000000-0000-4000-8000-000000000000",
    func_name: str = "task",
) -> Generator[RecordedContext]:
    """Call task functions inside this block as inside a task: `get_task_context()` and `task_log()` use its context.

    `attempt` is zero-based. The block covers what it calls and awaits, and threads started by `asyncio.to_thread`.
    """
    context = RecordedContext(task_id, func_name, attempt, checked_tags(tags))
    token = enter_task_context(context)
    try:
        yield context
    finally:
        leave_task_context(token)
