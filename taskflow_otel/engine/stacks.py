"""Where running tasks are: their stacks, as entries of their logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskflow_otel.engine.executors.base import Executor
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.task_output import TaskOutput
from taskflow_otel.model.stack import Place, lines_of, own_place
from taskflow_otel.model.vocabulary import LogLevel

STACK = "stack"
"""The field of the log entry that has the lines of the stack."""


class Stacks:
    """Writes where the function of a running attempt is into the log of its task.

    So it is where that log is read: the page and the API on every instance, files, OpenTelemetry. It has files,
    lines and names of functions, and never the values of variables.
    """

    def __init__(self, tasks: LiveTasks, executors: Mapping[str, Executor], output: TaskOutput) -> None:
        self._tasks = tasks
        self._executors = executors
        self._output = output

    def remember(self, task: LiveTask, why: str, level: LogLevel = LogLevel.WARNING) -> None:
        """Write the stack of a running attempt; `why` follows the place in the message of the entry."""
        call, attempt = task.call, task.attempt
        if task.phase is not Phase.RUNNING or call is None or attempt is None:
            return

        def tell(places: Sequence[Place]) -> None:
            if task.call is not call or task.phase is Phase.GONE:
                # A child process has answered too late.
                return
            self.write(task, places, why, level)

        self._executors[task.record.executor].look(call, attempt, tell)

    def write(self, task: LiveTask, places: Sequence[Place], why: str, level: LogLevel) -> None:
        """Write a stack that is known already."""
        if places:
            message = f"the task is at {own_place(places).short}: {why}"
            self._output.remark(task, message, level.value, {STACK: lines_of(places)})

    def remember_asked(self, task_id: str, by: str | None) -> bool:
        """Write the stack of a task because someone asked for it; `False` if the task does not run here."""
        task = self._tasks.live(task_id)
        if task is None or task.phase is not Phase.RUNNING:
            return False
        self.remember(task, f"asked for by {by}" if by else "asked for", LogLevel.INFO)
        return True
