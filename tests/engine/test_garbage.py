from __future__ import annotations

import gc
from itertools import pairwise

from taskflow_otel import TaskManager
from taskflow_otel.model.query import TaskQuery

_FEW = 30


async def test_finished_tasks_leave_no_objects_that_the_garbage_collector_visits() -> None:
    manager = TaskManager()

    @manager.task()
    async def nothing(number: int) -> None:
        pass

    async def run(tasks: int) -> int:
        for number in range(tasks):
            await manager.wait(await manager.enqueue(nothing, number))
        # Until their history is written, it refers to the tasks themselves.
        await manager.engine.lookup.page(TaskQuery(limit=1))
        gc.collect()
        return len(gc.get_objects())

    await manager.startup()
    try:
        # Classes remember what they were asked about, and some are asked for the first time when there are many tasks.
        # Other parts of the process come and go; what tasks leave grows each time.
        counts = [await run(300) for _ in range(5)]
        assert min(after - before for before, after in pairwise(counts)) < _FEW
    finally:
        await manager.shutdown()
