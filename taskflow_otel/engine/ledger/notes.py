"""History that waits to be written: the latest state of each task of which something is to be stored."""

from __future__ import annotations

from itertools import islice

from taskflow_otel.backends.base import AppendLogs
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.model.record import LogEntry


class Notes:
    """One note for each task, oldest first. Nothing here looks at more notes than it adds, takes or drops."""

    def __init__(self) -> None:
        self._notes: dict[str, LiveTask] = {}
        self._ended: dict[str, None] = {}
        """Those whose task has finished: of these nothing will follow, and only these can be dropped."""

    def __len__(self) -> int:
        return len(self._notes)

    @property
    def ended(self) -> int:
        """How many are of finished tasks."""
        return len(self._ended)

    def add(self, task: LiveTask) -> None:
        """Note a task; a note that is there already stands for its present state too."""
        record = task.record
        self._notes[record.task_id] = task
        if record.status.finished:
            self._ended[record.task_id] = None

    def put_back(self, task: LiveTask) -> None:
        """Note a task again whose note could not be written, unless it was noted meanwhile."""
        self._notes.setdefault(task.record.task_id, task)
        if task.record.status.finished:
            self._ended.setdefault(task.record.task_id)

    def take(self, most: int, *, only_ended: bool) -> list[LiveTask]:
        """Take up to `most` of them out, the oldest first."""
        taken = list(islice(self._ended if only_ended else self._notes, most))
        for task_id in taken:
            self._ended.pop(task_id, None)
        return [self._notes.pop(task_id) for task_id in taken]

    def trim(self, most: int) -> int:
        """Drop finished tasks, the oldest first, until `most` notes are left or no finished one is; return how many."""
        dropped = 0
        while len(self._notes) > most and self._ended:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._notes[oldest]
            dropped += 1
        return dropped


class NotedLines:
    """Log entries that wait to be written."""

    def __init__(self) -> None:
        self._lines: dict[str, list[LogEntry]] = {}
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, task_id: str, entry: LogEntry) -> None:
        """Add an entry."""
        self._lines.setdefault(task_id, []).append(entry)
        self._number += 1

    def trim(self, most: int) -> int:
        """Drop the entries of the tasks noted first until at most `most` are left; return how many were dropped."""
        before = self._number
        while self._number > most:
            self._number -= len(self._lines.pop(next(iter(self._lines))))
        return before - self._number

    def put_back(self, lines: AppendLogs) -> None:
        """Add entries again that could not be written, before those that came since."""
        self._lines[lines.task_id] = [*lines.entries, *self._lines.get(lines.task_id, [])]
        self._number += len(lines.entries)

    def take(self) -> list[AppendLogs]:
        """Take all of them out."""
        taken = [AppendLogs(task_id, tuple(entries)) for task_id, entries in self._lines.items()]
        self._lines, self._number = {}, 0
        return taken
