"""Old history is deleted, in batches that leave room for others."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.engine.fleet.retention import Cleaner, FigureCleaner
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.model.figures import KEPT, Span
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


async def test_figures_of_minutes_are_kept_for_a_day_and_those_of_hours_for_a_month() -> None:
    clock, backend = FakeClock(), MemoryBackend(durable=True)
    ages = [timedelta(0), KEPT[Span.MINUTE] + timedelta(hours=1), KEPT[Span.HOUR] + timedelta(hours=2)]
    for age in ages:
        task = finish(make_task())
        task.end_time = clock.now() - age
        await backend.apply([Insert(task)])
    cleaning = asyncio.create_task(FigureCleaner(backend.figure_store, clock, 60).tick())
    await clock.advance(10)
    await cleaning
    left = {span: len(await backend.figure_store.read(span, 0, 2**40)) for span in Span}
    assert left == {Span.MINUTE: 1, Span.HOUR: 2}
