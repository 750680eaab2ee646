"""The spans of attempts in a SQL database; `Writer` adds to them."""

from __future__ import annotations

from sqlalchemy import select

from taskflow_otel.backends.sql.audit import Read
from taskflow_otel.backends.sql.mapping import indexable
from taskflow_otel.backends.sql.schema import task_spans

_c = task_spans.c


class SqlSpanStore:
    """See `SpanStore`."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def read(self, task_id: str) -> dict[int, str]:
        """See `SpanStore`."""
        rows = await self._read(select(_c.attempt, _c.spans).where(_c.task_id == indexable(task_id)))
        return {row[0]: row[1] for row in rows}
