"""The slots of a queue that all instances share: one row for each claimed task, under the lock of its queue.

A row counts only while the stored task is as it was claimed: unfinished, with the token and the retries of that time.
So the slot is free with the commit of the outcome, of a retry or of a takeover. A process that dies leaves none behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.sql import queries
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.schema import settings, tasks
from taskflow_otel.model.plain import digest
from taskflow_otel.model.record import TaskRecord

_PREFIX = "slots:"


class Slots:
    """The slots of one queue, inside the transaction of a claim."""

    def __init__(self, prefix: str, held: int) -> None:
        self._prefix = prefix
        self.held: int = held
        """How many are held."""

    @classmethod
    async def lock(cls, connection: AsyncConnection, dialect: Dialect, queue: str) -> Self:
        """Lock the slots of a queue until the end of the transaction, and delete those that are free."""
        prefix = f"{_PREFIX}{digest(queue)}"
        await connection.execute(dialect.insert_ignore(settings).values(name=prefix, value=""))
        await connection.execute(select(settings.c.name).where(settings.c.name == prefix).with_for_update())
        # Only now: another claim may have held the lock, and what it wrote must be seen.
        rows = (await connection.execute(queries.settings_of(f"{prefix}:"))).all()
        stored = {name.rpartition(":")[2]: (name, value) for name, value in rows}
        valid: set[str] = set()
        for ids in queries.chunks(sorted(stored)):
            live = select(tasks.c.task_id, tasks.c.token, tasks.c.retries_used)
            live = live.where(tasks.c.task_id.in_(ids), tasks.c.live_owner.is_not(None))
            for task_id, token, retries in await connection.execute(live):
                if stored[task_id][1] == _mark(token, retries):
                    valid.add(task_id)
        free = [name for task_id, (name, _) in stored.items() if task_id not in valid]
        for names in queries.chunks(free):
            await connection.execute(delete(settings).where(settings.c.name.in_(names)))
        return cls(prefix, len(valid))

    async def give(self, connection: AsyncConnection, records: Sequence[TaskRecord]) -> None:
        """Give slots to tasks that are claimed in this transaction."""
        rows = [
            {"name": f"{self._prefix}:{record.task_id}", "value": _mark(record.token, record.retries_used)}
            for record in records
        ]
        if rows:
            await connection.execute(settings.insert(), rows)


def _mark(token: int, retries: int) -> str:
    return f"{token}:{retries}"
