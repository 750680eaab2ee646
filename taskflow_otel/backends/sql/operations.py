"""Bulk operations in a SQL database. An operation is one document; what is searched for has columns of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Select, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.operation_documents import Claims, decoded, encoded
from taskflow_otel.backends.sql.audit import Read, Write
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.mapping import indexable, micros, storable
from taskflow_otel.backends.sql.schema import operation_items, operations
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery

_o, _i = operations.c, operation_items.c


class SqlOperationStore:
    """See `OperationStore`."""

    def __init__(self, read: Read, write: Write, dialect: Dialect) -> None:
        self._read = read
        self._write = write
        self._dialect = dialect
        self._claims = Claims()

    async def begin(self, operation: Operation) -> Operation:
        """See `OperationStore`."""
        statement = self._dialect.insert_ignore(operations).values(_row(operation))
        known = _o.operation_id == operation.operation_id
        if operation.key is not None:
            known = _o.client_key == indexable(operation.key)

        async def work(connection: AsyncConnection) -> Operation:
            await connection.execute(statement)
            return decoded((await connection.execute(select(_o.doc).where(known))).scalar_one())

        return await self._write("storing an operation", work)

    async def get(self, operation_id: str) -> Operation | None:
        """See `OperationStore`."""
        rows = await self._read(select(_o.doc).where(_o.operation_id == storable(operation_id)))
        return decoded(rows[0][0]) if rows else None

    async def page(self, query: OperationQuery) -> list[Operation]:
        """See `OperationStore`."""
        return [decoded(row[0]) for row in await self._read(page_statement(query))]

    async def unfinished(self, limit: int) -> list[Operation]:
        """See `OperationStore`."""
        return [decoded(row[0]) for row in await self._read(unfinished_statement(limit))]

    async def claim(self, operation_id: str, token: int, owner: str) -> Operation | None:
        """See `OperationStore`."""
        doc = select(_o.doc).where(_o.operation_id == operation_id, _o.token == token, _o.ended_at.is_(None))

        async def work(connection: AsyncConnection) -> Operation | None:
            stored = await connection.scalar(doc.with_for_update())
            known = None if stored is None else self._claims.allowed(stored)
            if known is None:
                return None
            claimed = replace(known, owner=owner, token=token + 1)
            await connection.execute(update(operations).where(_o.operation_id == operation_id).values(_row(claimed)))
            return claimed

        return await self._write("taking over an operation", work)

    async def save(self, operation: Operation, items: Sequence[OperationItem]) -> bool:
        """See `OperationStore`."""
        mine = _o.operation_id == operation.operation_id, _o.token == operation.token, _o.ended_at.is_(None)
        statement = update(operations).where(*mine).values(_row(operation))
        new = [_item_row(operation, item) for item in items if item.outcome is None]
        settled = [_item_row(operation, item) for item in items if item.outcome is not None]
        result = update(operation_items).where(
            _i.operation_id == bindparam("of_operation"), _i.seq == bindparam("at_seq")
        )
        result = result.values({name: bindparam(name) for name in ("outcome", "new_task_id", "detail")})

        async def work(connection: AsyncConnection) -> bool:
            if not (await connection.execute(statement)).rowcount:
                return False
            if new:
                await connection.execute(self._dialect.insert_ignore(operation_items), new)
            if settled:
                rows = [
                    {
                        "of_operation": row["operation_id"],
                        "at_seq": row["seq"],
                        "outcome": row["outcome"],
                        "new_task_id": row["new_task_id"],
                        "detail": row["detail"],
                    }
                    for row in settled
                ]
                await connection.execute(result, rows)
            return True

        return await self._write("writing an operation", work)

    async def items(self, operation_id: str, first: int, limit: int) -> list[OperationItem]:
        """See `OperationStore`."""
        return [_item(row) for row in await self._read(items_statement(operation_id, first, limit))]

    async def of_task(self, task_id: str, limit: int) -> list[str]:
        """See `OperationStore`."""
        return [row[0] for row in await self._read(of_task_statement(task_id, limit))]

    async def forget(self, before: datetime, limit: int) -> int:
        """See `OperationStore`."""
        ended = await self._read(ended_statement(micros(before)))
        if not ended:
            return 0
        operation_id = ended[0][0]
        items = await self._read(items_statement(operation_id, 0, limit))
        own = delete(operation_items).where(_i.operation_id == operation_id)
        if items:
            own = own.where(_i.seq <= items[-1].seq)

        async def work(connection: AsyncConnection) -> int:
            deleted = (await connection.execute(own)).rowcount
            if len(items) < limit:
                itself = delete(operations).where(_o.operation_id == operation_id)
                deleted += (await connection.execute(itself)).rowcount
            return deleted

        return await self._write("deleting an operation", work)


def page_statement(query: OperationQuery) -> Select[Any]:
    """The documents of one page."""
    statement = select(_o.doc).order_by(_o.operation_id.desc()).limit(query.limit)
    if query.kind is not None:
        statement = statement.where(_o.kind == storable(query.kind))
    if query.status is not None:
        statement = statement.where(_o.status == storable(query.status))
    return statement if query.cursor is None else statement.where(_o.operation_id < storable(query.cursor))


def unfinished_statement(limit: int) -> Select[Any]:
    """The documents of operations that have not ended."""
    return select(_o.doc).where(_o.ended_at.is_(None)).order_by(_o.operation_id).limit(limit)


def ended_statement(before: int) -> Select[Any]:
    """The id of the operation that ended first, if that was before this moment."""
    return select(_o.operation_id).where(_o.ended_at < before).order_by(_o.ended_at, _o.operation_id).limit(1)


def items_statement(operation_id: str, first: int, limit: int) -> Select[Any]:
    """Items by their position."""
    mine = _i.operation_id == storable(operation_id), _i.seq >= first
    return select(_i.seq, _i.task_id, _i.outcome, _i.new_task_id, _i.detail).where(*mine).order_by(_i.seq).limit(limit)


def of_task_statement(task_id: str, limit: int) -> Select[Any]:
    """The newest operations with this task."""
    statement = select(_i.operation_id).where(_i.task_id == storable(task_id)).distinct()
    return statement.order_by(_i.operation_id.desc()).limit(limit)


def _row(operation: Operation) -> dict[str, Any]:
    return {
        "operation_id": operation.operation_id,
        "kind": operation.kind,
        "status": operation.status,
        "ended_at": None if operation.ended_at is None else micros(operation.ended_at),
        "client_key": None if operation.key is None else indexable(operation.key),
        "token": operation.token,
        "doc": encoded(operation),
    }


def _item_row(operation: Operation, item: OperationItem) -> dict[str, Any]:
    return {
        "operation_id": operation.operation_id,
        "seq": item.seq,
        "task_id": storable(item.task_id),
        "outcome": item.outcome,
        "new_task_id": item.new_task_id,
        "detail": None if item.detail is None else storable(item.detail),
    }


def _item(row: Sequence[Any]) -> OperationItem:
    seq, task_id, outcome, new_task_id, detail = row
    return OperationItem(seq=seq, task_id=task_id, outcome=outcome, new_task_id=new_task_id, detail=detail)
