"""The contract of a backend, which stores tasks.

One Protocol, one conformance suite. A backend knows nothing of the engine: it applies changes atomically and answers
queries. All its methods are coroutines on the manager's event loop; none may block it.

Errors: `BackendUnavailableError` if it cannot be reached or does not answer (trying again can help),
`BackendError(transient=False)` if the request itself is wrong. Driver exceptions never leave a backend.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from msgspec import Struct

from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord


# `gc=False`: none of them can be part of a cycle, and hundreds live for the time of a commit.
class RetryLink(Struct, frozen=True, gc=False):
    """Links a new task to the task in its `retry_of`: that task gets the new id as `retried_by`."""

    seen: str | None = None
    """The `retried_by` that the caller has read. If the stored one differs, another caller was first."""


class Insert(Struct, frozen=True, gc=False):
    """A new task. It is refused as a duplicate if another task holds its `active_key`, has used the name `once`, or has
    become the retry of the same task (`link`) since the caller's read.

    The record of a task that has finished belongs to the backend from then on: the caller changes nothing in it that
    the backend does not change itself."""

    record: TaskRecord
    once: str | None = None
    """A name of 1 to 255 characters that only one task may ever use. It stays used after that task has ended or was
    deleted, until `forget_once`."""
    link: RetryLink | None = None
    """The link and the task are written together or not at all. An original that is no longer stored gets no link."""


class Update(Struct, frozen=True, gc=False):
    """All mutable fields of a task, written only if the stored owner and token are those of the record."""

    record: TaskRecord


class AppendLogs(Struct, frozen=True):
    """Log entries of a task, keyed by `(task_id, seq)`; an existing entry stays unchanged.

    Entries of a task that is not stored (deleted since, or refused) are dropped: nothing would ever delete them.
    """

    task_id: str
    entries: tuple[LogEntry, ...]


class AppendSpans(Struct, frozen=True, gc=False):
    """The spans of one attempt, in the form of `taskflow_otel.model.spans`, possibly as ciphertext.

    They are dropped unless the stored owner and token of the task are these; the result is `APPLIED` in any case. What
    is stored of an attempt stays unchanged. Only a backend that `KeepsSpans` gets such a change.
    """

    task_id: str
    instance: str
    token: int
    attempt: int
    text: str


Change = Insert | Update | AppendLogs | AppendSpans
APPENDED = (AppendLogs, AppendSpans)
"""The changes that add to a task; all others write a record."""


def owners_of(changes: Iterable[Change]) -> set[str]:
    """The instances under whose ids records are written."""
    return {change.record.instance for change in changes if not isinstance(change, (AppendLogs, AppendSpans))}


class Outcome(StrEnum):
    """The result of one change."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    """Insert: another task (`Applied.duplicate_of`) holds the idempotency key, used the name, or is the retry."""
    STALE = "stale"
    """Update: the stored token or owner is different, or the task is gone."""


class Applied(Struct, frozen=True, gc=False):
    """The result of one change, with details."""

    outcome: Outcome
    duplicate_of: str | None = None


@runtime_checkable
class Backend(Protocol):
    """Stores tasks. Implementations: SQL (SQLite, PostgreSQL, MySQL), Redis, memory."""

    name: str
    """The `backend` label of metrics: `sqlite`, `postgres`, …"""
    durable: bool
    """Whether applied changes survive the process. Only then can a task be persisted."""

    async def open(self) -> None:
        """Connect; create the schema, or migrate an older one; raise `SchemaVersionError` on a newer one."""

    async def close(self) -> None:
        """Release every connection, thread and file. Safe to call twice."""

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all changes in one transaction, in order, and return one result for each.

        When this returns, the changes are as durable as the backend promises (`docs/guarantees.md`). When it raises,
        either nothing or everything was applied. Raises `DeclaredDeadError`, and applies nothing, if the instance of a
        record was declared dead: once `declare_dead` has returned, the ledger has everything that it will ever have
        under the id of that instance. Applying the same changes again is harmless: an `Insert` of a task
        that is already stored with the same id, owner and token counts as `APPLIED`.
        """

    async def get(self, task_id: str) -> TaskRecord | None:
        """One task without its logs, or `None`."""

    async def get_all(self, task_ids: Collection[str]) -> dict[str, TaskRecord]:
        """Those of these tasks that are stored, by id, without their logs."""

    async def logs(self, task_id: str) -> list[LogEntry]:
        """The log of one task, in order."""

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page, newest first (descending id); with a `count_limit` also its total."""

    async def counts(self, query: TaskQuery) -> TaskCounts:
        """Counts by status of all tasks that the query matches (its `limit` and `cursor` are ignored)."""

    async def holder_of(self, idempotency_key: str) -> str | None:
        """The id of the task that holds the key now."""

    async def changed_since(self, moment: datetime, *, not_of: str, limit: int) -> list[TaskRecord]:
        """Tasks of instances other than `not_of` that were written at or after `moment`, oldest change first."""

    async def request_cancel(self, task_id: str) -> bool:
        """Ask the owner of a live task to cancel it; return `False` if the task is unknown or finished."""

    async def cancel_requests(self, instance_id: str) -> list[str]:
        """Ids of the live tasks of this instance for which a cancellation was requested."""

    async def beat(self, instance: Instance) -> bool:
        """Write the instance's heartbeat; the first one registers it. Return `False` if it was declared dead."""

    async def instances(self) -> list[Instance]:
        """All known instances."""

    async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
        """Declare an instance dead if its heartbeat is still `seen_heartbeat`; exactly one caller gets `True`.

        An instance that is already `stopped` or `dead` stays so, and the result is `False`. It is `False` too while a
        batch of that instance may still be committed; the caller asks again later.
        """

    async def take_over(
        self,
        dead: Collection[str],
        new_owner: str,
        names: Collection[str] | None,
        limit: int,
        seals: Collection[str] = (),
    ) -> list[TaskRecord]:
        """Take unfinished tasks of dead or stopped instances: `new_owner` becomes the owner, the token grows by one.

        `names` limits this to task names that the new owner knows. `seals` limits it to arguments that it can read:
        those with one of these seals (`taskflow_otel.model.cipher.seal_of`), or without a seal. Without `names`, all
        are taken; tasks that are not persisted are always taken. Exactly one caller gets each task. The result holds
        the tasks after the change.
        """

    async def orphan_names(self, dead: Collection[str], beyond: Collection[str] | None = None) -> dict[str, int]:
        """Names and counts of the unfinished tasks of the instances in `dead`.

        With `beyond`, only persisted tasks whose arguments have a seal that is not one of these.
        """

    async def forget_instances(self, ids: Collection[str]) -> None:
        """Delete dead or stopped instances without unfinished tasks."""

    async def delete_finished(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` tasks that ended before this moment, with their logs; return how many."""

    async def delete_tasks(self, task_ids: Collection[str]) -> list[str]:
        """Delete those of these tasks that have finished, with their logs; return the ids of the deleted ones.

        The caller gives at most some hundred ids. A task that another call is deleting may be left out.
        """

    async def latest_once(self, prefix: str) -> tuple[str, str] | None:
        """The greatest name used once that begins with `prefix`, by code points, and the id of its task."""

    async def forget_once(self, prefix: str, before: str, limit: int) -> int:
        """Delete up to `limit` names that begin with `prefix` and are less than `before`; return how many."""

    async def settings(self, prefix: str) -> dict[str, str]:
        """The shared settings whose keys begin with `prefix`."""

    async def put_setting(self, key: str, value: str | None) -> None:
        """Write one setting, or delete it (`None`). A key has 1 to 255 characters."""

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        """Write or delete (`None`) several settings at once, if those in `expected` still have these values.

        `None` in `expected` means that the setting does not exist. If one of them differs, this returns `False` and
        changes nothing. Of conflicting simultaneous swaps, one succeeds.
        """
