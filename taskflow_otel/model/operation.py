"""Work on many tasks as a record: what was asked for, how far it is, and the result for each task. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.vocabulary import OperationKind


class Selection(Struct, frozen=True, kw_only=True):
    """The tasks that a filter selects, and how far they were collected.

    `statuses`: one after the other; `at`: which of them is being read, from the task `cursor` on, newest first.
    """

    statuses: list[str]
    query: TaskQuery
    ended_before: datetime | None = None
    at: int = 0
    cursor: str | None = None
    limit: int | None = None
    """The most tasks to select; `None`: all."""
    more: bool = False
    """Whether further tasks matched when the limit was reached."""

    @property
    def exhausted(self) -> bool:
        """Whether all of it was read."""
        return self.at >= len(self.statuses)


class Operation(Struct, frozen=True, kw_only=True):
    """One bulk operation. Its items are stored beside it, by their position: the first `done` of `total` have results.

    `token` grows with each owner, and each write names it: an owner that was replaced can write nothing more.
    """

    operation_id: str
    kind: str
    """One of `OperationKind`."""
    status: str
    """One of `OperationStatus`."""
    created_at: datetime
    owner: str | None
    token: int = 0
    actor: str | None = None
    reason: str | None = None
    filter: str | None = None
    """The query string, if a filter selected the tasks."""
    selection: Selection | None = None
    """What is still to be collected; `None` if the tasks were named."""
    named: int = 0
    """How many tasks were named."""
    begun: bool = False
    """Whether the request was stored completely. Until then, nothing is done."""
    key: str | None = None
    """A client's key: of all requests with it, the first makes an operation."""
    request: str = ""
    """What was asked for, as a digest: another request must not use the same key."""
    ended_at: datetime | None = None
    total: int = 0
    done: int = 0
    succeeded: int = 0
    error: str | None = None


class OperationItem(Struct, frozen=True, kw_only=True):
    """One task of an operation."""

    seq: int
    task_id: str
    outcome: str | None = None
    """One of `ItemOutcome`; `None` before it has a result."""
    new_task_id: str | None = None
    """The retry that was made, or, if it was refused, the one that was there already."""
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationQuery:
    """A filter over operations, newest first. `cursor`: the id of the last operation of the previous page."""

    kind: str | None = None
    status: str | None = None
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for: `selection`, or the ids of tasks, each once. `request` is a digest of all of it."""

    kind: OperationKind
    task_ids: Sequence[str] = ()
    selection: Selection | None = None
    actor: str | None = None
    reason: str | None = None
    filter: str | None = None
    key: str | None = None
    request: str = ""
