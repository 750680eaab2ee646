"""The audit in a SQL database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Executable, Select, and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.mapping import micros, moment, storable
from taskflow_otel.backends.sql.schema import audit
from taskflow_otel.model.audit import AuditCursor, AuditEntry, AuditPage, AuditQuery

T = TypeVar("T")

Read = Callable[[Executable], Awaitable[Sequence[Any]]]
"""Runs one statement that only reads, and returns its rows."""


class Write(Protocol):
    """Runs `work` in a transaction; `operation` names it in errors."""

    def __call__(self, operation: str, work: Callable[[AsyncConnection], Awaitable[T]], /) -> Awaitable[T]: ...


_FILTERS = ("actor", "action", "outcome")


class SqlAuditStore:
    """See `AuditStore`. Each question is a walk along one index by time."""

    def __init__(self, read: Read, write: Write, dialect: Dialect) -> None:
        self._read = read
        self._write = write
        self._dialect = dialect

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """See `AuditStore`."""
        if not entries:
            return
        rows = [_row(entry) for entry in entries]
        statement = self._dialect.insert_ignore(audit)

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement, rows)

        await self._write("writing the audit", work)

    async def page(self, query: AuditQuery) -> AuditPage:
        """See `AuditStore`."""
        rows = await self._read(page_statement(query))
        entries = [_entry(row) for row in rows[: query.limit]]
        if len(rows) <= query.limit:
            return AuditPage(entries, None)
        return AuditPage(entries, AuditCursor(entries[-1].at, entries[-1].entry_id))

    async def forget(self, before: datetime, limit: int) -> int:
        """See `AuditStore`."""
        ids = [row[0] for row in await self._read(before_statement(micros(before), limit))]
        if not ids:
            return 0

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(delete(audit).where(audit.c.entry_id.in_(ids)))).rowcount

        return await self._write("deleting the audit", work)


def page_statement(query: AuditQuery) -> Select[Any]:
    """The rows of one page, and one more."""
    c = audit.c
    conditions: list[ColumnElement[bool]] = [
        c[name] == storable(value) for name in _FILTERS if (value := getattr(query, name)) is not None
    ]
    if query.since is not None:
        conditions.append(c.at >= micros(query.since))
    if query.until is not None:
        conditions.append(c.at < micros(query.until))
    if query.cursor is not None:
        at = micros(query.cursor.at)
        conditions.append(and_(c.at <= at, or_(c.at < at, c.entry_id < query.cursor.entry_id)))
    if query.task_id is not None:
        of_task: ColumnElement[bool] = c.task_id == storable(query.task_id)
        conditions.append(or_(of_task, c.operation_id.in_(query.operations)) if query.operations else of_task)
    return select(audit).where(*conditions).order_by(c.at.desc(), c.entry_id.desc()).limit(query.limit + 1)


def before_statement(before: int, limit: int) -> Select[Any]:
    """The ids of the oldest entries before a moment."""
    return select(audit.c.entry_id).where(audit.c.at < before).order_by(audit.c.at, audit.c.entry_id).limit(limit)


_NAMES = tuple(column.name for column in audit.columns)


def _row(entry: AuditEntry) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in _NAMES}
    return {
        name: micros(value) if name == "at" else storable(value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def _entry(row: Sequence[Any]) -> AuditEntry:
    values = dict(zip(_NAMES, row, strict=True))
    return AuditEntry(**{**values, "at": moment(values["at"])})
