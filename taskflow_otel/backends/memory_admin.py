"""What people did, kept in the memory of this process: for tests, and for backends that do not store it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from taskflow_otel.model.audit import AuditEntry, AuditPage, AuditQuery, is_about, place_of

_MAX_ENTRIES = 5_000


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
        found = [entry for entry in self._entries.values() if is_about(entry, query) and self._concerns(entry, query)]
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

    def _concerns(self, entry: AuditEntry, query: AuditQuery) -> bool:
        return query.task_id is None or entry.task_id == query.task_id
