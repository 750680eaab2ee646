"""A whole batch as few statements on PostgreSQL, each with one array for each column, sent together.

As one statement with many rows of parameters, the server would plan, execute and answer each row by itself, and the
driver would convert each value by itself. With arrays, both work once for each kind of change. All statements go out
before the first answer is awaited (pipeline mode of libpq). So a batch waits for the server twice: for the answers to
its statements, which may refuse it, and for the commit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from taskflow_otel.backends.sql.batch import Step, UnexpectedRowCount
from taskflow_otel.backends.sql.dialects import Row
from taskflow_otel.backends.sql.fleet import DEAD

_NESTED_LOOPS = ("enable_hashjoin", "enable_mergejoin", "enable_seqscan")
"""Planner settings that are off in the transaction, so that each change finds its row by the primary key, in the order
of the arrays. A plan made while the table was small would read all of it when it is large, and all writers must lock
rows in the same order."""
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_REFUSED = "22012"
"""The SQLSTATE of a division by zero, which nothing else in a batch can cause."""


class NotAppliedError(Exception):
    """Certainly nothing was applied, and another connection or another time may do it. Never leaves the backend."""


@dataclass(slots=True)
class Flight:
    """A transaction of few messages."""

    driver: Any
    """The connection of psycopg, which commits each statement by itself unless a transaction was begun."""
    limits: Mapping[str, int]
    """Its time limits in milliseconds, by the name of the setting."""
    committing: bool = False
    """From here on, an error leaves open whether it was applied."""


_PARAMETER = re.compile(r"%s(?:::(\w+))?")
_TEXT = "VARCHAR"
_UNCAST = "DOUBLE PRECISION"
"""The only type of which SQLAlchemy does not write the name."""
_VALUES = re.compile(r"VALUES \((.*?)\)(?= ON CONFLICT| ON DUPLICATE|$)", re.DOTALL)


@lru_cache(maxsize=256)
def of_arrays(statement: str) -> tuple[str, tuple[str, ...]]:
    """The same statement for many rows, with one array parameter for each column, and the types of the columns."""
    types = tuple(found.group(1) or _UNCAST for found in _PARAMETER.finditer(statement))
    names = [f"c{place}" for place in range(len(types))]
    source = f"FROM unnest({', '.join(f'%s::{kind}[]' for kind in types)}) AS given({', '.join(names)})"
    numbered = iter(names)
    body = _PARAMETER.sub(lambda _: f"given.{next(numbered)}", statement)
    if body.startswith("INSERT") and " VALUES (" in body:
        return _VALUES.sub(lambda found: f"SELECT {found.group(1)} {source}", body), types
    before, where, conditions = body.partition("WHERE ")
    return f"{before}{source} {where}{conditions}", types


def arrays(rows: Sequence[Row], types: Sequence[str]) -> list[str]:
    """The columns of these rows as PostgreSQL writes arrays."""
    columns = zip(*rows, strict=True)
    return [_texts(column) if kind == _TEXT else _numbers(column) for kind, column in zip(types, columns, strict=True)]


def _texts(column: Sequence[Any]) -> str:
    values = [
        "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in column
    ]
    return "{" + ",".join(values) + "}"


def _numbers(column: Sequence[Any]) -> str:
    return "{" + ",".join(["NULL" if value is None else str(value) for value in column]) + "}"


def settings(limits: Mapping[str, int], off: Collection[str] = _NESTED_LOOPS) -> str:
    """The statement that makes settings until its transaction ends: `limits` in milliseconds, and what is `off`."""
    values = {name: str(limit) for name, limit in limits.items()} | dict.fromkeys(off, "off")
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in values.items())


@asynccontextmanager
async def _sent_together(connection: Any) -> AsyncIterator[None]:
    """Send what is executed inside without waiting for answers; raise the error of the first statement that fails."""
    failed: Exception | None = None
    errors: type[Exception] = connection.Error
    try:
        async with connection.pipeline():
            try:
                yield
            except errors as error:
                # The statements behind it fail too: the driver would log that as a second error.
                failed = error
    except errors as error:
        failed = failed or error
    if failed is not None:
        raise failed


async def execute(connection: Any, steps: Iterator[Step], *first: str) -> None:
    """Execute steps on a connection of psycopg, after the statements `first`; neither begins nor ends a transaction.

    Raises `UnexpectedRowCount` if a change must be refused, and the errors of psycopg.
    """
    expected: list[tuple[Any, int]] = []
    async with _sent_together(connection):
        for statement in first:
            await connection.execute(statement)
        for statement, rows, strict in steps:
            text, types = of_arrays(statement)
            cursor = connection.cursor()
            await cursor.execute(text, arrays(rows, types))
            if strict:
                expected.append((cursor, len(rows)))
            # Making the rows takes time, and the driver does not wait for the server here.
            await asyncio.sleep(0)
    if any(cursor.rowcount != number for cursor, number in expected):
        raise UnexpectedRowCount


async def ask(connection: Any, *statements: tuple[str, Sequence[Any]]) -> list[Any]:
    """Send statements with their parameters together; return a cursor for the answer to each.

    Raises the error of the first one that fails, which is the last one that the server tries.
    """
    cursors: list[Any] = []
    async with _sent_together(connection):
        for statement, parameters in statements:
            cursors.append(connection.cursor())
            await cursors[-1].execute(statement, parameters)
    return cursors


async def commit(connection: Any, lock_state: str, owners: Collection[str]) -> None:
    """Commit the open transaction; raises `UnexpectedRowCount` if one of these instances was declared dead.

    The lock on the instance and the commit are one message. So no process that is stopped can hold that lock, and keep
    the others from declaring it dead: PostgreSQL ends an idle transaction, but not one within a message.
    """
    from psycopg import sql

    locks = [_refusing(lock_state, sql.Literal(owner).as_string(connection)) for owner in sorted(owners)]
    try:
        await connection.execute("; ".join((*locks, "COMMIT")), prepare=False)
    except connection.Error as error:
        if error.sqlstate == _REFUSED:
            raise UnexpectedRowCount from None
        raise


def _refusing(lock_state: str, owner: str) -> str:
    """The statement that locks the state of an instance, and fails if that is `dead`."""
    column, rest = lock_state.removeprefix("SELECT ").split(None, 1)
    return f"SELECT 1 / ({column} <> '{DEAD}')::int {_PARAMETER.sub(lambda _: owner, rest)}"
