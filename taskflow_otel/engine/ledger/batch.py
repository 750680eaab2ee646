"""The changes of one ledger transaction, and how they are divided if the backend refuses the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from taskflow_otel.backends.base import APPENDED, AppendLogs, AppendSpans, Applied, Change, Insert, Update
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.phase import Phase
from taskflow_otel.errors import BackendError

_THEIR_FAULT = (TypeError, ValueError, ArithmeticError, RecursionError)
"""Errors that an unwritable change raises in a backend that does not translate them."""
_REDUCED_TEXT = 500
_GONE, _RUNNING = Phase.GONE, Phase.RUNNING
_NOT_STORED = "[the database refused this text]"


class Commit(Struct, eq=False):
    """A change with a waiting caller."""

    change: Change
    future: asyncio.Future[Applied]
    deadline: float
    """Monotonic time; infinite for a caller without a timeout."""
    tried: bool = False
    """It was part of a transaction that failed, but may have been applied nevertheless."""
    reductions: int = 0
    """How often something was removed from it because the backend refused it."""

    @property
    def task_id(self) -> str:
        """The task that it changes."""
        return self.change.task_id if isinstance(self.change, APPENDED) else self.change.record.task_id


# Never part of a cycle: nothing that it leads to knows it.
class Note(Struct, eq=False, gc=False):
    """A task whose current state will be written, as it is at that time."""

    task: LiveTask
    after_insert: bool = False
    """An insert was tried before: it may have stored an earlier state although its answer was lost."""

    @property
    def task_id(self) -> str:
        """The task."""
        return self.task.record.task_id

    @property
    def change(self) -> Change:
        """The change that writes the current state of the task.

        It holds a copy, because the task may change during the write. A backend that saw the finished state early, and
        has deleted the task since, would refuse the note of its end.
        """
        task = self.task
        record = task.record if task.phase is _GONE else task.record.copy()
        return Update(record) if task.stored or self.after_insert else Insert(record)


def notes_of(tasks: Iterable[LiveTask]) -> list[Item]:
    """The notes that write the current state of tasks, even if an insert of an earlier state was applied."""
    notes: list[Item] = []
    for task in tasks:
        notes.append(Note(task))
        if task.insert_tried and not task.stored:
            notes.append(Note(task, after_insert=True))
    return notes


def allowed(items: Iterable[Item]) -> list[Item]:
    """What of these may be written: no note during a durable task's own commit, which it would overwrite."""
    return [item for item in items if type(item) is not Note or not item.task.durable or item.task.phase is _RUNNING]


@dataclass(slots=True, eq=False)
class Lines:
    """Log entries of a task."""

    change: AppendLogs

    @property
    def task_id(self) -> str:
        """The task."""
        return self.change.task_id


class Spans(Struct, eq=False, gc=False):
    """The spans of an attempt."""

    change: AppendSpans

    @property
    def task_id(self) -> str:
        """The task."""
        return self.change.task_id


Item = Commit | Note | Lines | Spans


@dataclass(slots=True, eq=False)
class Batch:
    """The changes of one transaction, in order.

    `apart`: it is a part of a failed batch. `due`: the monotonic time of the next try. `failures`: how often this part
    has failed. `barriers` are released when it is written.
    """

    items: list[Item]
    apart: bool = False
    due: float = 0.0
    failures: int = 0
    barriers: list[asyncio.Future[None]] = field(default_factory=list)

    def halves(self) -> list[Batch]:
        """Two parts, or none if all changes are of one task: those stay together, in their order."""
        groups: dict[str, list[Item]] = {}
        for item in self.items:
            groups.setdefault(item.task_id, []).append(item)
        if len(groups) < 2:
            return []
        parts = list(groups.values())
        middle = len(parts) // 2
        return [Batch([item for group in part for item in group], True) for part in (parts[:middle], parts[middle:])]


def reduce(commit: Commit, why: str) -> bool:
    """Remove from an update what its state does not need: first texts and progress, then the reasons of its timeline.

    Returns `False` if there is nothing left to remove.
    """
    if not isinstance(commit.change, Update) or commit.reductions == 2:
        return False
    record = commit.change.record.copy()
    record.progress = None
    record.error = _reduced(record.error, why)
    record.stacktrace = _reduced(record.stacktrace, why)
    record.error_type = _plain(record.error_type)
    record.reason = _plain(record.reason)
    if commit.reductions:
        record.error = None if record.error is None else _NOT_STORED
        record.stacktrace = record.error_type = record.reason = None
        record.timeline = tuple([replace(entry, reason=None) for entry in record.timeline])
    commit.change = Update(record)
    commit.reductions += 1
    return True


def _plain(text: str | None) -> str | None:
    return None if text is None else text.encode("ascii", "backslashreplace").decode("ascii")[:_REDUCED_TEXT]


def _reduced(text: str | None, why: str) -> str | None:
    return None if text is None else f"{_plain(text)}… [cut, because the database refused it: {_plain(why)}]"


def judged(exc: Exception) -> BackendError | None:
    """The error as one of the library; `None` for a driver's error that says nothing about the changes."""
    if isinstance(exc, BackendError):
        return exc
    if not isinstance(exc, _THEIR_FAULT):
        return None
    reason = f"{type(exc).__name__}: {exc}"
    return BackendError(reason, transient=False, reason=reason)
