"""The pooled connections of an engine: replaced all at once, and closed when the backend is."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry


class Connections:
    """The connections of one pool, also those in use."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._entries: WeakSet[ConnectionPoolEntry] = WeakSet()
        self._closed = False
        event.listen(engine.sync_engine, "connect", self._connected)
        event.listen(engine.sync_engine, "checkin", self._returned)

    def renew(self) -> None:
        """Replace each present connection when it is used next."""
        for entry in list(self._entries):
            entry.invalidate(soft=True)

    async def close(self) -> None:
        """Close the idle connections now, and each of the others when it is returned."""
        self._closed = True
        await self._engine.dispose()

    def _connected(self, _: Any, entry: ConnectionPoolEntry) -> None:
        self._entries.add(entry)

    def _returned(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        # An abandoned operation ends after the pool was disposed of, which no longer closes anything.
        if self._closed and connection is not None:
            entry.invalidate()
