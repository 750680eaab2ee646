"""What is stored, read without a server."""

from __future__ import annotations

from pathlib import Path

from taskflow_otel.backends import Backend, SqliteBackend
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord


async def every_record(backend: Backend) -> dict[str, TaskRecord]:
    """Every stored task, by id."""
    records: dict[str, TaskRecord] = {}
    cursor: str | None = None
    while True:
        page = await backend.page(TaskQuery(limit=500, cursor=cursor))
        records.update((record.task_id, record) for record in page.records)
        cursor = page.next_cursor
        if cursor is None:
            return records


async def records_in(path: Path) -> dict[str, TaskRecord]:
    """Every task in a SQLite file, by id."""
    backend = SqliteBackend(path)
    await backend.open()
    try:
        return await every_record(backend)
    finally:
        await backend.close()
