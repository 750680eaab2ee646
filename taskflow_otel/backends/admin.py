"""What a backend may store beside tasks: what people did through the administration, and figures of finished tasks.

These contracts are optional. A backend that has them exposes the store as an attribute. For a backend without it, the
engine uses the store in memory: it is bounded, and each process has its own. Figures are counted by the backend itself:
without a store for them, nothing is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from taskflow_otel.model.audit import AuditEntry, AuditPage, AuditQuery
from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery


class AuditStore(Protocol):
    """Stores the audit. The errors are those of a `Backend`."""

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Store entries in one transaction; an entry whose id is stored already stays unchanged."""

    async def page(self, query: AuditQuery) -> AuditPage:
        """One page, newest first: by time, then by id."""

    async def forget(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` entries that are older than this moment, the oldest first; return how many."""


@runtime_checkable
class KeepsAudit(Protocol):
    """A backend that stores the audit."""

    @property
    def audit_store(self) -> AuditStore:
        """The store; it works while the backend is open."""


class OperationStore(Protocol):
    """Stores bulk operations and their items. The errors are those of a `Backend`."""

    async def begin(self, operation: Operation) -> Operation:
        """Store a new operation without items; if its `key` is stored already, return the operation that has it.

        An operation whose id is stored already stays unchanged.
        """

    async def get(self, operation_id: str) -> Operation | None:
        """One operation."""

    async def page(self, query: OperationQuery) -> list[Operation]:
        """Up to `limit` operations that match, newest first: descending id."""

    async def unfinished(self, limit: int) -> list[Operation]:
        """Operations that have not ended, the oldest first."""

    async def claim(self, operation_id: str, token: int, owner: str) -> Operation | None:
        """Make `owner` the owner of an operation that has not ended, if its token is this one; it grows by one.

        Return the operation after the change, or `None`; of several callers, one gets it. One that a later version of
        the library has stored, with a field that this one does not know, is `None` too: it would lose that filter.
        """

    async def save(self, operation: Operation, items: Sequence[OperationItem]) -> bool:
        """Write the state of an operation, and these items, in one transaction: new ones, or their results.

        Return `False`, and write nothing, unless the stored token is that of the operation and it has not ended.
        """

    async def items(self, operation_id: str, first: int, limit: int) -> list[OperationItem]:
        """Up to `limit` items from the position `first` on, in their order."""

    async def of_task(self, task_id: str, limit: int) -> list[str]:
        """The ids of the newest operations that have this task."""

    async def forget(self, before: datetime, limit: int) -> int:
        """Delete items of operations that ended before this moment, and those of them without items; return how many.

        At most about `limit` are deleted, those of the operation that ended first; 0 means that nothing is left.
        """


@runtime_checkable
class KeepsOperations(Protocol):
    """A backend that stores bulk operations."""

    @property
    def operation_store(self) -> OperationStore:
        """The store; it works while the backend is open."""


class FigureStore(Protocol):
    """Stores the figures of finished tasks. The errors are those of a `Backend`.

    The transaction that stores an outcome also adds the task to the figures of its minute and of its hour, by its end:
    each finished task is counted exactly once. The deletion of a task does not change them.
    """

    async def read(
        self,
        span: Span,
        first: int,
        last: int,
        *,
        by_name: bool = False,
        kinds: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Figure]:
        """The figures of the slots from `first` to `last` (see `Span.slot`), of each task type or of all together.

        `kinds`: only these. `names`: only those of these task types.
        """

    async def oldest(self, span: Span) -> int | None:
        """The oldest slot with a figure; `None` without any."""

    async def forget(self, span: Span, before: int, limit: int) -> int:
        """Delete up to about `limit` figures of slots that are less than `before`; return how many."""


@runtime_checkable
class KeepsFigures(Protocol):
    """A backend that stores the figures of finished tasks."""

    @property
    def figure_store(self) -> FigureStore:
        """The store; it works while the backend is open."""
