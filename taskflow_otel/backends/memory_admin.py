"""What people did, kept in the memory of this process: for tests, and for backends that do not store it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from msgspec.structs import replace

from taskflow_otel.model.audit import AuditEntry, AuditPage, AuditQuery, is_about, place_of
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery

_MAX_ENTRIES = 5_000
_MAX_OPERATIONS = 500
_MAX_ITEMS = 200_000


class MemoryAuditStore:
    """The newest entries of the audit; beyond `max_entries`, the oldest are dropped."""

    def __init__(self, max_entries: int = _MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries: dict[str, AuditEntry] = {}
        """In the order in which they were added."""

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """See `AuditStore`."""
        for entry in entries:
            self._entries.setdefault(entry.entry_id, entry)
        while len(self._entries) > self._max_entries:
            del self._entries[next(iter(self._entries))]

    async def page(self, query: AuditQuery) -> AuditPage:
        """See `AuditStore`."""
        found = [entry for entry in self._entries.values() if is_about(entry, query)]
        if query.cursor is not None:
            found = [entry for entry in found if place_of(entry) < query.cursor]
        found.sort(key=place_of, reverse=True)
        page = found[: query.limit]
        return AuditPage(page, place_of(page[-1]) if len(found) > len(page) else None)

    async def forget(self, before: datetime, limit: int) -> int:
        """See `AuditStore`."""
        old = sorted(place_of(entry) for entry in self._entries.values() if entry.at < before)[:limit]
        for place in old:
            del self._entries[place.entry_id]
        return len(old)


class MemoryOperationStore:
    """The newest bulk operations; beyond `max_items` items of all of them, the oldest that have ended are dropped."""

    def __init__(self, max_items: int = _MAX_ITEMS) -> None:
        self._max_items = max_items
        self._operations: dict[str, Operation] = {}
        self._items: dict[str, list[OperationItem]] = {}
        self._keys: dict[str, str] = {}

    async def begin(self, operation: Operation) -> Operation:
        """See `OperationStore`."""
        if operation.key is not None:
            known = self._operations.get(self._keys.setdefault(operation.key, operation.operation_id))
            if known is not None:
                return known
        stored = self._operations.setdefault(operation.operation_id, operation)
        self._items.setdefault(operation.operation_id, [])
        self._bound()
        return stored

    async def get(self, operation_id: str) -> Operation | None:
        """See `OperationStore`."""
        return self._operations.get(operation_id)

    async def page(self, query: OperationQuery) -> list[Operation]:
        """See `OperationStore`."""
        found = [
            operation
            for operation in self._operations.values()
            if query.kind in (None, operation.kind)
            and query.status in (None, operation.status)
            and (query.cursor is None or operation.operation_id < query.cursor)
        ]
        return sorted(found, key=attrgetter("operation_id"), reverse=True)[: query.limit]

    async def unfinished(self, limit: int) -> list[Operation]:
        """See `OperationStore`."""
        found = [operation for operation in self._operations.values() if operation.ended_at is None]
        return sorted(found, key=attrgetter("operation_id"))[:limit]

    async def claim(self, operation_id: str, token: int, owner: str) -> Operation | None:
        """See `OperationStore`."""
        known = self._operations.get(operation_id)
        if known is None or known.token != token or known.ended_at is not None:
            return None
        claimed = self._operations[operation_id] = replace(known, owner=owner, token=token + 1)
        return claimed

    async def save(self, operation: Operation, items: Sequence[OperationItem]) -> bool:
        """See `OperationStore`."""
        known = self._operations.get(operation.operation_id)
        if known is None or known.token != operation.token or known.ended_at is not None:
            return False
        self._operations[operation.operation_id] = operation
        stored = self._items[operation.operation_id]
        for item in items:
            stored[item.seq : item.seq + 1] = [item]
        self._bound()
        return True

    async def items(self, operation_id: str, first: int, limit: int) -> list[OperationItem]:
        """See `OperationStore`."""
        return self._items.get(operation_id, [])[first : first + limit]

    async def of_task(self, task_id: str, limit: int) -> list[str]:
        """See `OperationStore`."""
        found: list[str] = []
        for operation_id in sorted(self._items, reverse=True):
            # Many items must not keep the event loop.
            await asyncio.sleep(0)
            if len(found) < limit and any(item.task_id == task_id for item in self._items.get(operation_id, ())):
                found.append(operation_id)
        return found

    async def forget(self, before: datetime, limit: int) -> int:
        """See `OperationStore`."""
        ended = [(one.ended_at, one.operation_id) for one in self._operations.values() if one.ended_at is not None]
        old = sorted(place for place in ended if place[0] < before)
        if not old:
            return 0
        return 1 + len(self._drop(old[0][1]))

    def _drop(self, operation_id: str) -> list[OperationItem]:
        operation = self._operations.pop(operation_id)
        if operation.key is not None:
            self._keys.pop(operation.key, None)
        return self._items.pop(operation_id)

    def _bound(self) -> None:
        while len(self._operations) > _MAX_OPERATIONS or sum(map(len, self._items.values())) > self._max_items:
            ended = [one.operation_id for one in self._operations.values() if one.ended_at is not None]
            if not ended:
                return
            self._drop(min(ended))
