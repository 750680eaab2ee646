"""What people did through the administration: the entries of the audit, and questions about them. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One action, or one attempt that was refused. Texts are plain and short."""

    entry_id: str
    at: datetime
    """Aware, in UTC."""
    actor: str | None
    """The name of the user; `None` if no one was known."""
    method: str | None
    """How the user was known: `session`, `basic`, `token`, …; `open` without access control."""
    client: str | None
    """The address from which the request came, as the application knows it."""
    action: str
    route: str
    """Method and address, as `POST /tasks/{task_id}/retry`."""
    outcome: str
    """One of `AuditOutcome`."""
    status: int
    """The status of the answer."""
    target: str | None = None
    """What the action was about, if that is not a task: the name of a queue, a schedule or a user, or a filter."""
    task_id: str | None = None
    operation_id: str | None = None
    """The bulk operation, which has the ids of all its tasks."""
    reason: str | None = None
    """Why, as the user gave it."""
    detail: str | None = None
    """What happened, or why it was refused."""
    instance: str = ""
    times: int = 1
    """How many attempts this entry is about: many refused ones that are alike share an entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """A filter over the audit. All given conditions must hold; `None` does not filter.

    `since` is inclusive, `until` exclusive. `cursor`: the
    `next_cursor` of the previous page.
    """

    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    task_id: str | None = None
    operations: tuple[str, ...] = ()
    """With `task_id`: the bulk operations that had the task, whose entries are wanted too."""
    limit: int = 100
    cursor: AuditCursor | None = None


@dataclass(frozen=True, slots=True, order=True)
class AuditCursor:
    """The place of an entry in the audit: its time, then its id."""

    at: datetime
    entry_id: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first. A page with a cursor may hold fewer than its limit, or even no entry."""

    entries: list[AuditEntry]
    next_cursor: AuditCursor | None


def place_of(entry: AuditEntry) -> AuditCursor:
    """The place of an entry."""
    return AuditCursor(entry.at, entry.entry_id)


def is_about(entry: AuditEntry, query: AuditQuery) -> bool:
    """Whether an entry fulfils the conditions of a query, except that on the cursor."""
    return (
        (query.task_id is None or entry.task_id == query.task_id or entry.operation_id in query.operations)
        and (query.actor is None or entry.actor == query.actor)
        and (query.action is None or entry.action == query.action)
        and (query.outcome is None or entry.outcome == query.outcome)
        and (query.since is None or entry.at >= query.since)
        and (query.until is None or entry.at < query.until)
    )
