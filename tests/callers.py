"""The sessions and connections with which an application uses the database of its ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

DRIVERS = {"sqlite": ("pysqlite", "aiosqlite"), "postgresql": ("psycopg", "psycopg"), "mysql": ("pymysql", "aiomysql")}
KINDS = ("Session", "AsyncSession", "Connection", "AsyncConnection")


class Database:
    """A database as an application uses it: one synchronous and one asynchronous engine."""

    def __init__(self, url: str, **options: Any) -> None:
        parsed = make_url(url)
        kind = parsed.get_backend_name().replace("mariadb", "mysql")
        plain, awaited = DRIVERS[kind]
        self.engine: Engine = create_engine(parsed.set(drivername=f"{kind}+{plain}"), **options)
        self.async_engine: AsyncEngine = create_async_engine(parsed.set(drivername=f"{kind}+{awaited}"), **options)
        if kind == "sqlite":
            # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html: so that savepoints work.
            for engine in (self.engine, self.async_engine.sync_engine):
                event.listen(engine, "connect", _no_begin)
                event.listen(engine, "begin", _begin)

    async def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        await self.async_engine.dispose()

    @asynccontextmanager
    async def open(self, kind: str) -> AsyncIterator[Caller]:
        """A new session or connection; it is closed at the end, without a commit."""
        match kind:
            case "Session":
                with Session(self.engine) as session:
                    yield Caller(session)
            case "AsyncSession":
                async with AsyncSession(self.async_engine) as session:
                    yield Caller(session)
            case "Connection":
                with self.engine.connect() as connection:
                    yield Caller(connection)
            case _:
                async with self.async_engine.connect() as connection:
                    yield Caller(connection)


class Caller:
    """A session or connection; each call may be plain or a coroutine function."""

    def __init__(self, handle: Session | AsyncSession | Connection | AsyncConnection) -> None:
        self.handle = handle

    async def commit(self) -> None:
        await _answer(self.handle.commit())

    async def rollback(self) -> None:
        await _answer(self.handle.rollback())

    async def execute(self, statement: Any, *parameters: Any) -> Any:
        return await _answer(self.handle.execute(statement, *parameters))

    @asynccontextmanager
    async def savepoint(self, *, keep: bool) -> AsyncIterator[None]:
        """A savepoint around the block, which is released or rolled back at its end."""
        nested = await _answer(self.handle.begin_nested())
        yield
        await _answer(nested.commit() if keep else nested.rollback())


async def _answer(answer: Any) -> Any:
    return await answer if hasattr(answer, "__await__") else answer


def _no_begin(connection: Any, _: object) -> None:
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
