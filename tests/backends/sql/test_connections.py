"""Connections of a pool: all are replaced at once, and none stays open after the close of its backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from taskflow_otel.backends.sql.connections import Connections


class Pool:
    """A pool of two connections, which counts those that were made and closed."""

    def __init__(self, path: Path) -> None:
        self.engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=2, max_overflow=0)
        self.connections = Connections(self.engine)
        self.made: list[object] = []
        self.closed: list[object] = []
        event.listen(self.engine.sync_engine, "connect", lambda connection, _: self.made.append(connection))
        event.listen(self.engine.sync_engine, "close", lambda connection, _: self.closed.append(connection))

    async def use_both(self) -> None:
        async with self.engine.connect() as one, self.engine.connect() as other:
            for connection in (one, other):
                await connection.exec_driver_sql("SELECT 1")


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    pool = Pool(tmp_path / "tasks.db")
    await pool.use_both()
    assert len(pool.made) == 2
    yield pool
    await pool.connections.close()
    assert sorted(map(id, pool.made)) == sorted(map(id, pool.closed))


async def test_renewed_connections_are_replaced_once_also_those_in_use(pool: Pool) -> None:
    async with pool.engine.connect() as in_use:
        pool.connections.renew()
        await in_use.exec_driver_sql("SELECT 1")
        assert pool.closed == []
    for _ in range(2):
        await pool.use_both()
    assert pool.closed == pool.made[:2]
    assert len(pool.made) == 4


async def test_a_connection_that_is_returned_after_the_close_is_closed_then(pool: Pool) -> None:
    async with pool.engine.connect() as in_use:
        await pool.connections.close()
        assert len(pool.closed) == 1
        await in_use.exec_driver_sql("SELECT 1")
    assert len(pool.closed) == 2
