"""Old history is deleted, in batches that leave room for others."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.engine.fleet.retention import Cleaner
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.backends.samples import finish, make_task
from taskflow_otel.testing.clock import FakeClock


class Batches(MemoryBackend):
    """Notes the size of each batch that is deleted."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.deleted: list[int] = []

    async def delete_finished(self, before: datetime, limit: int) -> int:
        count = await super().delete_finished(before, limit)
        self.deleted.append(count)
        return count


async def test_only_finished_tasks_that_ended_before_the_moment_are_deleted() -> None:
    clock, backend = FakeClock(), Batches()
    await backend.open()
    old, new, live = finish(make_task()), finish(make_task()), make_task()
    old.end_time, new.end_time = clock.now() - timedelta(days=8), clock.now() - timedelta(days=6)
    live.created_at = clock.now() - timedelta(days=9)
    await backend.apply([Insert(old), Insert(new), Insert(live)])
    await Cleaner(backend, clock, 60, timedelta(days=7), LiveTasks(10), Life()).tick()
    left = (await backend.page(TaskQuery())).records
    assert {record.task_id for record in left} == {new.task_id, live.task_id}
    await backend.close()


async def test_others_get_the_backend_between_two_batches() -> None:
    clock, backend = FakeClock(), Batches()
    await backend.open()
    await backend.apply([Insert(finish(make_task())) for _ in range(1_200)])
    cleaner = Cleaner(backend, clock, 60, None, LiveTasks(10), Life())
    deleting = asyncio.create_task(cleaner.delete(clock.now() + timedelta(days=365)))
    await clock.advance(0)
    assert (backend.deleted, deleting.done()) == ([500], False), "it waits before it continues"
    await clock.advance(10)
    assert await deleting == 1_200
    assert backend.deleted == [500, 500, 200]
    await backend.close()
