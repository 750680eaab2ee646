"""History that waits to be written: the latest state of each task, and log entries."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice

from taskflow_otel.backends.base import AppendLogs, AppendSpans
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.model.record import LogEntry
from taskflow_otel.model.status import TaskStatus

_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING


class Notes:
    """One note for each task, oldest first. No method looks at more notes than it adds, takes or drops."""

    def __init__(self) -> None:
        # An OrderedDict: finding the first entry of a plain dict gets slower with each entry removed at its front.
        self._notes: OrderedDict[str, LiveTask] = OrderedDict()
        self.ended: OrderedDict[str, None] = OrderedDict()
        """Notes of finished tasks: they will not change, and only they can be dropped."""

    def __len__(self) -> int:
        return len(self._notes)

    def will_insert(self, task_id: str) -> bool:
        """Whether the note of this task will store it for the first time: what is added to it must wait for that."""
        task = self._notes.get(task_id)
        return task is not None and not (task.stored or task.durable)

    def add(self, task: LiveTask) -> bool:
        """Note a task; return `False` if nothing changed, because an existing note covers its current state."""
        record = task.record
        task_id, status = record.task_id, record.status
        # Not `finished`: to read an attribute of an enum member is not cheap.
        if status is not _PENDING and status is not _RUNNING:
            self.ended[task_id] = None
        elif task_id in self._notes:
            return False
        self._notes[task_id] = task
        return True

    def put_back(self, task: LiveTask) -> None:
        """Note a task again after a failed write, unless it was noted since."""
        self._notes.setdefault(task.record.task_id, task)
        if task.record.status.finished:
            self.ended.setdefault(task.record.task_id)

    def take(self, most: int, *, only_ended: bool) -> list[LiveTask]:
        """Take up to `most` notes out, oldest first."""
        taken = list(islice(self.ended if only_ended else self._notes, most))
        for task_id in taken:
            self.ended.pop(task_id, None)
        return [self._notes.pop(task_id) for task_id in taken]

    def trim(self, most: int) -> int:
        """Drop notes of finished tasks, oldest first, until at most `most` notes are left; return how many."""
        dropped = 0
        while len(self._notes) > most and self.ended:
            oldest, _ = self.ended.popitem(last=False)
            del self._notes[oldest]
            dropped += 1
        return dropped


class NotedLines:
    """Log entries that wait to be written."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, list[LogEntry]] = OrderedDict()
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, task_id: str, entry: LogEntry) -> None:
        """Add an entry."""
        self._lines.setdefault(task_id, []).append(entry)
        self._number += 1

    def trim(self, most: int) -> int:
        """Drop entries, those of the first noted tasks first, until at most `most` are left; return how many."""
        before = self._number
        while self._number > most:
            self._number -= len(self._lines.popitem(last=False)[1])
        return before - self._number

    def put_back(self, lines: AppendLogs) -> None:
        """Add entries again after a failed write, before the newer ones."""
        self._lines[lines.task_id] = [*lines.entries, *self._lines.get(lines.task_id, [])]
        self._number += len(lines.entries)

    def take(self, must_wait: Callable[[str], bool]) -> list[AppendLogs]:
        """Take the entries out, except those of tasks that `must_wait` names: a backend drops what has no task."""
        taken: list[AppendLogs] = []
        left: OrderedDict[str, list[LogEntry]] = OrderedDict()
        for task_id, entries in self._lines.items():
            if must_wait(task_id):
                left[task_id] = entries
            else:
                taken.append(AppendLogs(task_id, tuple(entries)))
        self._lines, self._number = left, sum(map(len, left.values()))
        return taken


class NotedSpans:
    """Spans of attempts that wait to be written: at most `most` characters, the oldest are dropped for newer ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[AppendSpans] = deque()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, spans: AppendSpans) -> int:
        """Add those of an attempt; return of how many attempts the spans were dropped."""
        self._waiting.append(spans)
        self._size += len(spans.text)
        dropped = 0
        while self._size > self._most:
            self._size -= len(self._waiting.popleft().text)
            dropped += 1
        return dropped

    def put_back(self, spans: AppendSpans) -> int:
        """Add spans again after a failed write, unless there is no room left; return how many were dropped."""
        if self._size + len(spans.text) > self._most:
            return 1
        self._waiting.appendleft(spans)
        self._size += len(spans.text)
        return 0

    def take(self, most: int, must_wait: Callable[[str], bool]) -> list[AppendSpans]:
        """Take up to `most` out, except those of tasks that `must_wait` names: they are not stored yet."""
        taken: list[AppendSpans] = []
        for _ in range(min(most, len(self._waiting))):
            spans = self._waiting.popleft()
            if must_wait(spans.task_id):
                self._waiting.append(spans)
            else:
                taken.append(spans)
                self._size -= len(spans.text)
        return taken
