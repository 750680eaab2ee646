"""The contract of a backend: where tasks are kept.

One Protocol, one conformance suite. A backend knows nothing of the engine: it applies changes atomically and
answers questions. All its methods are coroutines on the manager's event loop; none may block it.

Errors: `BackendUnavailableError` when it cannot be reached or does not answer (trying again can help),
`BackendError(transient=False)` when the request itself is at fault. Driver exceptions never leave a backend.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from msgspec import Struct

from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord


class RetryLink(Struct, frozen=True):
    """That a new task retries the one that its `retry_of` names, which is to bear its id as `retried_by`."""

    seen: str | None = None
    """The `retried_by` that the caller read there: where it is another one by now, somebody else was first."""


class Insert(Struct, frozen=True):
    """A new task. Refused as a duplicate when another task holds its `active_key`, has used the name `once`, or has
    been linked as the retry of the same task (`link`) since the caller looked."""

    record: TaskRecord
    once: str | None = None
    """A name, of 1 to 255 characters, that one task ever may use: it stays used when that task ends or is deleted,
    until `forget_once`."""
    link: RetryLink | None = None
    """The link is written together with the task, or neither is. An original that is no longer stored has no link."""


class Update(Struct, frozen=True):
    """All mutable fields of a task, written only where the stored owner and token are the record's."""

    record: TaskRecord


class AppendLogs(Struct, frozen=True):
    """Log entries of a task, keyed by `(task_id, seq)`; an entry already there is left as it is.

    Entries of a task that is not stored (deleted meanwhile, or refused) are dropped: nothing would ever delete them.
    """

    task_id: str
    entries: tuple[LogEntry, ...]


Change = Insert | Update | AppendLogs


class Outcome(StrEnum):
    """What became of one change."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    """Insert: another task (`Applied.duplicate_of`) holds the idempotency key, has used the name, or is the retry."""
    STALE = "stale"
    """Update: the stored token or owner is another one, or the task is gone."""


class Applied(Struct, frozen=True):
    """The result of one change, in the order of the changes."""

    outcome: Outcome
    duplicate_of: str | None = None


@runtime_checkable
class Backend(Protocol):
    """Where tasks are kept. Implementations: SQL (SQLite, PostgreSQL, MySQL), Redis, memory."""

    name: str
    """The `backend` label of metrics: `sqlite`, `postgres`, …"""
    durable: bool
    """Whether what was applied survives the process. Only then can a task be persisted."""

    async def open(self) -> None:
        """Connect; create the schema, or migrate an older one; raise `SchemaVersionError` on a newer one."""

    async def close(self) -> None:
        """Release every connection, thread and file. Safe to call twice."""

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all changes in one transaction, in order, and return one result for each.

        When this returns, what it applied is as durable as the backend promises (G1). When it raises, either
        nothing or everything was applied; applying the same changes again is harmless: an `Insert` of a task that is
        already stored under the same id, owner and token counts as `APPLIED`.
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
        """The id of the task that holds the key at the moment."""

    async def changed_since(self, moment: datetime, *, not_of: str, limit: int) -> list[TaskRecord]:
        """Tasks of other instances than `not_of` last written at or after `moment`, oldest change first."""

    async def request_cancel(self, task_id: str) -> bool:
        """Ask the owner of a live task to cancel it; `False` when the task is unknown or finished."""

    async def cancel_requests(self, instance_id: str) -> list[str]:
        """Ids of the live tasks of this instance whose cancellation was asked for."""

    async def beat(self, instance: Instance) -> bool:
        """Write the instance's heartbeat, registering it at the first; `False` when it was declared dead."""

    async def instances(self) -> list[Instance]:
        """All known instances."""

    async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
        """Declare an instance dead if its heartbeat is still the one seen; exactly one caller gets `True`.

        An instance already `stopped` or `dead` stays as it is and returns `False`.
        """

    async def take_over(
        self,
        dead: Collection[str],
        new_owner: str,
        names: Collection[str] | None,
        limit: int,
        seals: Collection[str] = (),
    ) -> list[TaskRecord]:
        """Take unfinished tasks of dead or stopped instances: owner becomes `new_owner`, the token grows by one.

        `names` restricts it to task names the new owner knows, and `seals` to arguments that it can read: those whose
        seal (`taskflow_otel.model.cipher.seal_of`) is one of these, or that have none. Without `names`, all are taken,
        and tasks that are not persisted are in any case. Each task is handed to exactly one caller. Returned as they
        are after the change.
        """

    async def orphan_names(self, dead: Collection[str], beyond: Collection[str] | None = None) -> dict[str, int]:
        """Names and counts of the unfinished tasks that instances in `dead` have left behind.

        With `beyond`, only of persisted tasks whose arguments have a seal that is none of these.
        """

    async def forget_instances(self, ids: Collection[str]) -> None:
        """Delete dead or stopped instances that own no unfinished task any more."""

    async def delete_finished(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` tasks that ended before this moment, with their logs; return how many."""

    async def latest_once(self, prefix: str) -> tuple[str, str] | None:
        """Of the names used once that begin with `prefix` the greatest, in the order of code points, with its task's
        id."""

    async def forget_once(self, prefix: str, before: str, limit: int) -> int:
        """Forget up to `limit` names that begin with `prefix` and are less than `before`; return how many."""

    async def settings(self, prefix: str) -> dict[str, str]:
        """The settings that all instances share whose keys begin with `prefix`."""

    async def put_setting(self, key: str, value: str | None) -> None:
        """Write one setting, or delete it (`None`). A key has 1 to 255 characters."""

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        """Write or delete (`None`) several settings at once, if those in `expected` still have these values.

        A value of `None` in `expected` is that of a setting which is not there. Returns `False`, and changes nothing,
        when one of them differs. Of simultaneous swaps that exclude each other one succeeds.
        """
