"""What the storm itself knows, independently of the ledger: what was answered to it, and what was executed."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from taskflow_otel.model.status import TaskStatus


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A 2xx answer: the client has this task's id."""

    task_id: str
    number: int
    kind: str
    key: str | None
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 503 answer: the client was told that nothing was started."""

    number: int
    pid: int
    at: float
    """On the monotonic clock."""


@dataclass(slots=True)
class Answers:
    """Every answer to the load."""

    acknowledged: list[Acknowledgement] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    unanswered: int = 0
    unexpected: list[str] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    """The numbers of requests that failed by themselves, and how: none of their tasks may run."""

    def refuse(self, number: int, pid: int) -> None:
        """Note a 503."""
        self.refused.append(Refusal(number, pid, time.monotonic()))


@dataclass(frozen=True, slots=True)
class Note:
    """One line that an execution wrote: `enter`, then `leave` or `raise`, unless it was ended from outside."""

    word: str
    task_id: str
    attempt: int
    pid: int
    kind: str
    number: int
    at: datetime
    """When it was written. All processes share one clock."""


@dataclass(slots=True)
class Executions:
    """All notes, by task."""

    by_task: dict[str, list[Note]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, datetime] = field(default_factory=dict)
    """When an observer was first given the end of a task, by whose time it was committed."""
    ends: Counter[str] = field(default_factory=Counter)
    """How often observers were given the end of a task, refusals apart: a refused task may turn out to be stored."""

    def of(self, task_id: str, word: str) -> list[Note]:
        """The notes with this word that one task wrote."""
        return [note for note in self.by_task.get(task_id, ()) if note.word == word]

    def entered(self) -> Iterable[Note]:
        """Every entry of a function."""
        return (note for notes in self.by_task.values() for note in notes if note.word == "enter")


def read_notes(path: Path) -> Executions:
    """Read what the executions wrote."""
    executions = Executions()
    for line in path.read_text().splitlines() if path.exists() else ():
        word, task_id, *rest = line.split()
        if word == "ended":
            executions.ended.setdefault(task_id, datetime.fromisoformat(rest[0]))
            executions.ends[task_id] += rest[1] != TaskStatus.REJECTED
            continue
        attempt, pid, kind, number, at = rest
        note = Note(word, task_id, int(attempt), int(pid), kind, int(number), datetime.fromisoformat(at))
        executions.by_task[task_id].append(note)
    return executions
