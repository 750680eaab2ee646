"""The audit is deleted after its own retention, in batches."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from taskflow_otel.backends.memory_admin import MemoryAuditStore
from taskflow_otel.engine.admin.retention import AdminCleaner
from taskflow_otel.model.audit import AuditQuery
from taskflow_otel.testing.backends.admin import make_entry
from taskflow_otel.testing.clock import FakeClock


class Batches(MemoryAuditStore):
    """Notes the size of each batch that is deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: list[int] = []

    async def forget(self, before: datetime, limit: int) -> int:
        count = await super().forget(before, limit)
        self.deleted.append(count)
        return count


async def test_old_entries_are_deleted_with_pauses_in_between() -> None:
    clock, store = FakeClock(), Batches()
    old, new = clock.now() - timedelta(days=8), clock.now() - timedelta(days=6)
    await store.add([*(make_entry(at=old) for _ in range(1_200)), make_entry(at=new)])
    deleting = asyncio.create_task(AdminCleaner([store], clock, 60, timedelta(days=7)).tick())
    await clock.advance(0)
    assert (store.deleted, deleting.done()) == ([500], False), "it waits before it continues"
    await clock.advance(10)
    await deleting
    assert store.deleted == [500, 500, 200, 0]
    assert [entry.at for entry in (await store.page(AuditQuery())).entries] == [new]
