"""The bell of the pool on PostgreSQL: a connection that listens, beside those of the engine.

A notification is part of the transaction that sends it: it arrives after the commit, or never
(https://www.postgresql.org/docs/current/sql-notify.html).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

from taskflow_otel.backends.pool import News


class PostgresBell:
    """See `PoolBell`.

    `connect` opens a connection of psycopg that commits each statement by itself; `guard` translates its errors.
    """

    def __init__(
        self,
        channel: str,
        connect: Callable[[], Awaitable[Any]],
        guard: Callable[[], AbstractAsyncContextManager[Callable[[], None]]],
    ) -> None:
        self._channel = channel
        self._connect = connect
        self._guard = guard

    async def hear(self, news: News) -> None:
        """See `PoolBell`."""
        async with self._guard() as lift_limit:
            connection = await self._connect()
            try:
                [pid] = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
                if pid != connection.info.backend_pid:
                    # A pooler answers for the server, and gives this session to others between two statements.
                    return
                await connection.execute(f'LISTEN "{self._channel}"')
                lift_limit()
                news.all()
                async with aclosing(connection.notifies()) as notifications:
                    async for notification in notifications:
                        news.heard(notification.payload)
            finally:
                await connection.close()
