"""The audit in Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from taskflow_otel.backends.redis.texts import from_micros, to_micros
from taskflow_otel.model.audit import AuditCursor, AuditEntry, AuditPage, AuditQuery, is_about, place_of

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection

_STEP = 200
_SCAN_LIMIT = 2_000
"""The most entries that are read for one page."""
_DELETE_STEP = 200

_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(AuditEntry).decode


class RedisAuditStore:
    """See `AuditStore`. An index has the entries of each task and operation; the rest is checked on entries."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """See `AuditStore`."""
        if entries:
            args = [text for entry in entries for text in _args(entry)]
            await self._connection().write("audit_add", *args, lasting=True)

    async def page(self, query: AuditQuery) -> AuditPage:
        """See `AuditStore`."""
        if query.task_id is None:
            return await self._walk("audit", query)
        pages = [await self._walk(f"audit_of:{about}", query) for about in (query.task_id, *query.operations)]
        found = sorted((entry for page in pages for entry in page.entries), key=place_of, reverse=True)
        more = len(found) > query.limit or any(page.next_cursor is not None for page in pages)
        found = found[: query.limit]
        return AuditPage(found, place_of(found[-1]) if more and found else None)

    async def _walk(self, index: str, query: AuditQuery) -> AuditPage:
        latest = _latest(query)
        earliest = "-inf" if query.since is None else str(to_micros(query.since))
        found: list[AuditEntry] = []
        last: AuditCursor | None = None
        for offset in range(0, _SCAN_LIMIT, _STEP):
            rows = await self._connection().read("audit_page", index, latest, earliest, str(offset), str(_STEP))
            for entry_id, at, text in rows:
                last = AuditCursor(from_micros(int(at)), entry_id)
                if text is None or (query.cursor is not None and not last < query.cursor):
                    # Deleted since, or on an earlier page.
                    continue
                entry = _decode(text)
                if is_about(entry, query):
                    if len(found) == query.limit:
                        return AuditPage(found, place_of(found[-1]))
                    found.append(entry)
            if len(rows) < _STEP:
                return AuditPage(found, None)
        return AuditPage(found, last)

    async def forget(self, before: datetime, limit: int) -> int:
        """See `AuditStore`."""
        deleted = 0
        while deleted < limit:
            step = min(_DELETE_STEP, limit - deleted)
            number = await self._connection().write("audit_forget", str(to_micros(before)), str(step))
            deleted += number
            if number < step:
                break
        return deleted


def _args(entry: AuditEntry) -> list[str]:
    about = entry.task_id or "", entry.operation_id or ""
    return [entry.entry_id, str(to_micros(entry.at)), *about, _encode(entry).decode()]


def _latest(query: AuditQuery) -> str:
    bounds: list[tuple[float, str]] = []
    if query.until is not None:
        until = to_micros(query.until)
        bounds.append((until, f"({until}"))
    if query.cursor is not None:
        at = to_micros(query.cursor.at)
        # After an exclusive bound of the same time.
        bounds.append((at + 0.5, str(at)))
    return min(bounds)[1] if bounds else "+inf"
