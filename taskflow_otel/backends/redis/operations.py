"""Bulk operations in Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from taskflow_otel.backends.operation_documents import Claims, decoded, encoded
from taskflow_otel.backends.redis.texts import to_micros
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery
from taskflow_otel.model.plain import distinct_text

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection

_STEP = 200

_encode = msgspec.json.Encoder().encode
_decode_item = msgspec.json.Decoder(OperationItem).decode


class RedisOperationStore:
    """See `OperationStore`."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection
        self._claims = Claims()

    async def begin(self, operation: Operation) -> Operation:
        """See `OperationStore`."""
        key = "" if operation.key is None else distinct_text(operation.key)
        args = operation.operation_id, key, operation.kind, operation.status, encoded(operation)
        return decoded(await self._connection().write("operation_begin", *args, lasting=True))

    async def get(self, operation_id: str) -> Operation | None:
        """See `OperationStore`."""
        text = await self._connection().read("operation_get", operation_id)
        return decoded(text) if text else None

    async def page(self, query: OperationQuery) -> list[Operation]:
        """See `OperationStore`."""
        found: list[Operation] = []
        cursor, ended = query.cursor or "", 0
        while not ended and len(found) < query.limit:
            wanted = query.kind or "", query.status or ""
            args = "operations", "newest", cursor, str(_STEP), *wanted
            ended, cursor, some = await self._connection().read("operation_page", *args)
            found += [decoded(text) for _, text in some]
        return found[: query.limit]

    async def unfinished(self, limit: int) -> list[Operation]:
        """See `OperationStore`."""
        *_, some = await self._connection().read("operation_page", "operations_open", "oldest", "", str(limit), "", "")
        return [decoded(text) for _, text in some]

    async def claim(self, operation_id: str, token: int, owner: str) -> Operation | None:
        """See `OperationStore`."""
        text = await self._connection().read("operation_get", operation_id)
        known = self._claims.allowed(text) if text else None
        if known is None or known.token != token:
            return None
        claimed = replace(known, owner=owner, token=token + 1)
        return claimed if await self._save(claimed, token, ()) else None

    async def save(self, operation: Operation, items: Sequence[OperationItem]) -> bool:
        """See `OperationStore`."""
        return await self._save(operation, operation.token, items)

    async def _save(self, operation: Operation, token: int, items: Sequence[OperationItem]) -> bool:
        ended = "" if operation.ended_at is None else str(to_micros(operation.ended_at))
        text = encoded(operation)
        args = [operation.operation_id, str(token), str(operation.token), operation.status, ended, text]
        for item in items:
            args += (str(item.seq), item.task_id, _encode(item).decode())
        return bool(await self._connection().write("operation_save", *args, lasting=True))

    async def items(self, operation_id: str, first: int, limit: int) -> list[OperationItem]:
        """See `OperationStore`."""
        found: list[OperationItem] = []
        while limit > 0:
            step = min(limit, _STEP)
            some = await self._connection().read("operation_items", operation_id, str(first), str(step))
            found += [_decode_item(text) for text in some]
            if len(some) < step:
                break
            first, limit = first + step, limit - step
        return found

    async def of_task(self, task_id: str, limit: int) -> list[str]:
        """See `OperationStore`."""
        ids = await self._connection().read("operations_of", task_id, str(limit))
        return list(ids)

    async def forget(self, before: datetime, limit: int) -> int:
        """See `OperationStore`."""
        return int(await self._connection().write("operation_forget", str(to_micros(before)), str(min(limit, _STEP))))
