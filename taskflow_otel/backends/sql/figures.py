"""The figures of finished tasks in a SQL database; `Writer` adds to them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.sql.audit import Read, Write
from taskflow_otel.backends.sql.schema import figures
from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.runtime.owned_tasks import in_slices

_c = figures.c
_AT_ONCE = 2_000
_MOST_SLOTS = 200
"""Slots that are named one by one: more than the hours of a week."""


class SqlFigureStore:
    """See `FigureStore`."""

    def __init__(self, read: Read, write: Write) -> None:
        self._read = read
        self._write = write

    async def read(
        self,
        span: Span,
        first: int,
        last: int,
        *,
        by_name: bool = False,
        kinds: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Figure]:
        """See `FigureStore`."""
        rows = await self._read(figures_statement(span, first, last, by_name, kinds, names))
        return [
            Figure(slot, name, kind, bucket, int(tasks), int(micros))
            async for slot, name, kind, bucket, tasks, micros in in_slices(rows, _AT_ONCE)
        ]

    async def oldest(self, span: Span) -> int | None:
        """See `FigureStore`."""
        [[slot]] = await self._read(oldest_statement(span))
        return None if slot is None else int(slot)

    async def forget(self, span: Span, before: int, limit: int) -> int:
        """See `FigureStore`."""
        old = _c.span == span.value, _c.slot < before
        oldest = select(_c.slot, _c.func_name).where(*old).order_by(_c.slot, _c.func_name).limit(limit)
        rows = await self._read(oldest)
        if not rows:
            return 0
        slot, name = rows[-1]
        # Whole slots, and whole types of the last one: a database deletes a range of the primary key faster than
        # single rows. A slot of many types is not deleted at once, which would hold up the writes of others.
        of_span = delete(figures).where(_c.span == span.value)
        doomed = [of_span.where(_c.slot == slot, _c.func_name <= name)]
        if rows[0][0] != slot:
            doomed.append(of_span.where(_c.slot < slot))

        async def work(connection: AsyncConnection) -> int:
            return sum([(await connection.execute(statement)).rowcount for statement in doomed])

        return await self._write("deleting figures", work)


def figures_statement(
    span: Span,
    first: int,
    last: int,
    by_name: bool,
    kinds: Collection[str] | None = None,
    names: Collection[str] | None = None,
) -> Select[Any]:
    """The sums over the shards, and over the names unless each is wanted."""
    name: ColumnElement[Any] = _c.func_name if by_name else literal("").label("func_name")
    parts = [_c.slot, *([_c.func_name] if by_name else []), _c.kind, _c.bucket]
    wanted = select(_c.slot, name, _c.kind, _c.bucket, func.sum(_c.tasks), func.sum(_c.micros))
    if kinds is not None:
        wanted = wanted.where(_c.kind.in_(sorted(kinds)))
    within = [_c.slot >= first, _c.slot <= last]
    if names is not None:
        wanted = wanted.where(_c.func_name.in_(sorted(names)))
        slots = range(-(-first // span.seconds) * span.seconds, last + 1, span.seconds)
        if len(slots) <= _MOST_SLOTS:
            # One look at the primary key for each slot, where a range would read the other types too.
            within = [_c.slot.in_(list(slots))]
    return wanted.where(_c.span == span.value, *within).group_by(*parts).order_by(*parts)


def oldest_statement(span: Span) -> Select[Any]:
    """The oldest slot."""
    return select(func.min(_c.slot)).where(_c.span == span.value)
