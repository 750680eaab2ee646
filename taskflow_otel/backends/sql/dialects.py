"""The differences of the databases: ignoring a conflict, adding to a row, locking the schema, judging an error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from sqlalchemy import BindParameter, ColumnElement, Insert, Select, Table, func, literal_column, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.faults import Fault
from taskflow_otel.backends.sql.faults import mysql_fault, postgres_fault, sqlite_fault
from taskflow_otel.errors import BackendUnavailableError

_SCHEMA_LOCK_NAME = "taskflow_schema"
_SCHEMA_LOCK_NUMBER = 0x7461736B666C6F77  # "taskflow"
_SCHEMA_LOCK_SECONDS = 30
_NULL = -(2**63)

Row = tuple[Any, ...]


class Dialect(Protocol):
    """The SQL dialect of a database."""

    kinds: Collection[str]
    """SQLAlchemy's names of the databases that speak it."""
    by_rows: bool
    """Whether a walk along an index compares its columns as a row, `(a, b) <= (1, 2)`, and orders by all of them.

    Without it, the planner would choose another index with the same order, and read all of it to find old tasks.
    """
    by_edges: bool
    """Whether a first query on the index alone finds how far back a page reaches.

    For a planner that estimates from its indexes how many rows a range has, and would otherwise sort or read too many.
    """

    claims_at_once: bool
    """Whether one statement can change rows, delete others and return what it found."""

    def nullable(self, parameter: BindParameter[Any]) -> ColumnElement[Any]:
        """The expression for a parameter that may be null, in statements of the hot path; see `bindable`."""

    null: Any
    """What stands for null among the values for statements of the hot path."""

    def bindable(self, row: Row) -> Row:
        """The values of a row in the form for statements of the hot path."""

    def insert_ignore(self, table: Table) -> Insert:
        """An insert that skips rows which violate a unique constraint, and does not count them."""

    def insert_or_add(self, table: Table, sums: Sequence[str]) -> Insert:
        """An insert that adds the columns `sums` to an existing row."""

    def ring(self, channel: str, message: str) -> Select[Any] | None:
        """The statement that notifies the listeners of a channel after the commit, where there is one."""

    def schema_lock(self, connection: AsyncConnection, /) -> _Lock:
        """Prevent other processes from changing the schema inside the `with` block."""

    def fault(self, error: BaseException, /) -> Fault:
        """Judge an error of the driver."""


class _Lock(Protocol):
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc_info: Any) -> bool | None: ...


class _NoBell:
    def ring(self, channel: str, message: str) -> Select[Any] | None:
        """See `Dialect`."""
        del channel, message
        return None


class _PlainParameters:
    null = None

    def nullable(self, parameter: BindParameter[Any]) -> ColumnElement[Any]:
        """See `Dialect`."""
        return parameter

    def bindable(self, row: Row) -> Row:
        """See `Dialect`."""
        return row


class SqliteDialect(_NoBell):
    """SQLite: only one writer at a time, so there are no conflicting transactions."""

    kinds: Collection[str] = ("sqlite",)
    by_rows = by_edges = claims_at_once = False
    null = _NULL

    def nullable(self, parameter: BindParameter[Any]) -> ColumnElement[Any]:
        """See `Dialect`.

        Python's driver searches its adapters for each bound `None`, which takes a microsecond: a row with many empty
        columns takes five times as long. So a number that never occurs represents null.
        """
        return func.nullif(parameter, literal_column(str(_NULL)))

    def bindable(self, row: Row) -> Row:
        """See `Dialect`."""
        return tuple([_NULL if value is None else value for value in row])

    def insert_ignore(self, table: Table) -> Insert:
        """See `Dialect`."""
        return sqlite.insert(table).on_conflict_do_nothing()

    def insert_or_add(self, table: Table, sums: Sequence[str]) -> Insert:
        """See `Dialect`."""
        insert = sqlite.insert(table)
        added = {name: table.c[name] + insert.excluded[name] for name in sums}
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=added)

    @asynccontextmanager
    async def schema_lock(self, _: AsyncConnection) -> AsyncIterator[None]:
        """See `Dialect`; a write transaction is exclusive and covers the schema."""
        yield

    def fault(self, error: BaseException) -> Fault:
        """See `Dialect`."""
        return sqlite_fault(error)


class PostgresDialect(_PlainParameters):
    """PostgreSQL."""

    kinds: Collection[str] = ("postgresql",)
    by_rows: bool = True
    by_edges: bool = False
    claims_at_once: bool = True

    def insert_ignore(self, table: Table) -> Insert:
        """See `Dialect`."""
        return postgresql.insert(table).on_conflict_do_nothing()

    def insert_or_add(self, table: Table, sums: Sequence[str]) -> Insert:
        """See `Dialect`."""
        insert = postgresql.insert(table)
        added = {name: table.c[name] + insert.excluded[name] for name in sums}
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=added)

    def ring(self, channel: str, message: str) -> Select[Any] | None:
        """See `Dialect`; equal notifications of a transaction are one."""
        return select(func.pg_notify(channel, message))

    @asynccontextmanager
    async def schema_lock(self, connection: AsyncConnection) -> AsyncIterator[None]:
        """See `Dialect`; the lock ends with the transaction, which covers the schema."""
        # Creating an index over a million tasks takes longer than any write.
        await connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        await connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK_NUMBER)))
        yield

    def fault(self, error: BaseException) -> Fault:
        """See `Dialect`."""
        return postgres_fault(error)


class MySQLDialect(_PlainParameters, _NoBell):
    """MySQL and MariaDB."""

    kinds: Collection[str] = ("mysql", "mariadb")
    by_rows: bool = False
    by_edges: bool = True
    claims_at_once: bool = False

    def insert_ignore(self, table: Table) -> Insert:
        """See `Dialect`.

        IGNORE also shortens a text that is too long, with a warning; the callers limit their texts.
        """
        return mysql.insert(table).prefix_with("IGNORE")

    def insert_or_add(self, table: Table, sums: Sequence[str]) -> Insert:
        """See `Dialect`."""
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update({name: table.c[name] + insert.inserted[name] for name in sums})

    @asynccontextmanager
    async def schema_lock(self, connection: AsyncConnection) -> AsyncIterator[None]:
        """See `Dialect`; a named lock, because each change of the schema commits."""
        if await connection.scalar(select(func.get_lock(_SCHEMA_LOCK_NAME, _SCHEMA_LOCK_SECONDS))) != 1:
            raise BackendUnavailableError("another process has been changing the schema for too long; try again")
        try:
            # Creating an index over a million tasks takes longer than any write.
            await connection.exec_driver_sql("/*M! SET @taskflow_limit = @@max_statement_time */")
            await connection.exec_driver_sql("/*M! SET SESSION max_statement_time = 0 */")
            yield
            await connection.exec_driver_sql("/*M! SET SESSION max_statement_time = @taskflow_limit */")
            # The next holder of the lock must see the writes of this one.
            await connection.exec_driver_sql("COMMIT")
        finally:
            if not connection.invalidated:
                await connection.execute(select(func.release_lock(_SCHEMA_LOCK_NAME)))

    def fault(self, error: BaseException) -> Fault:
        """See `Dialect`."""
        return mysql_fault(error)
