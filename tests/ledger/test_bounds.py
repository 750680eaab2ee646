"""Memory, history, logs and texts are bounded, and say where they were cut."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from datetime import timedelta

import pytest

from taskflow_otel import LifecycleEvent, TaskRecord, TaskStatus, task_log
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import MAX_LOG_ENTRIES, MAX_TEXT
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.testing.clock import FakeClock
from tests.ledger.fleet import Fleet
from tests.managers import finish
from tests.waiting import eventually

WINDOW = 1_000
STREAM = 4_096


def living() -> Counter[type]:
    """How many objects of each class there are; the collector does not know all of them, but who refers to them."""
    gc.collect()
    known = gc.get_objects()
    found = {id(item): type(item) for item in known}
    for item in gc.get_referents(*known):
        found.setdefault(id(item), type(item))
    return Counter(found.values())


def test_what_the_collector_does_not_visit_is_counted_too() -> None:
    before = living()
    kept = [make_task() for _ in range(100)]
    after = living()
    after.subtract(before)
    assert after[TaskRecord] == len(kept)


# What a process holds does not depend on where its tasks are kept.
@pytest.mark.parametrize("backend_factory", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("persist", "number"), [(True, 4_000), (False, 20_000)])
async def test_thousands_of_finished_tasks_leave_only_the_window_in_memory(
    fleet: Fleet, persist: bool, number: int
) -> None:
    before = living()
    manager = fleet.manager()

    @manager.task(persist=persist)
    async def job(number: int) -> None:
        task_log(f"number {number}")

    await fleet.start(manager)
    for start in range(0, number, 2_000):
        keys = [f"key {n}" if persist else None for n in range(start, start + 2_000)]
        await asyncio.gather(*(manager.enqueue(job, 1, idempotency_key=key, tags={"n": str(key)}) for key in keys))

    async def all_written() -> bool:
        return await fleet.number(TaskQuery(status=TaskStatus.SUCCESS)) == number

    await eventually(all_written, "the end of every task", timeout=90)
    # The ledger may have what this process has no answer about yet.
    await eventually(lambda: not manager.store.list(), "the news of every end")
    left = living()
    left.subtract(before)
    assert left[TaskRecord] <= WINDOW
    assert left[LiveTask] == 0
    # The stream keeps the latest changes for those who come back.
    assert left[LifecycleEvent] <= STREAM
    engine = manager.engine
    assert (len(engine._tasks), len(engine._tasks._finished)) == (0, WINDOW)
    assert len(engine._tasks._keys) == (WINDOW if persist else 0)
    assert not engine._ledger._backlog


async def test_retention_deletes_in_batches_while_tasks_continue(fleet: Fleet) -> None:
    clock = FakeClock()
    manager = fleet.manager(clock=clock, retention_days=1)

    @manager.task(persist=True)
    async def job() -> None:
        task_log("done")

    await fleet.start(manager)
    old = await asyncio.gather(*(manager.enqueue(job) for _ in range(1_100)))

    async def all_ended() -> bool:
        return await fleet.number(TaskQuery(status=TaskStatus.SUCCESS)) == len(old)

    await eventually(all_ended, "the end of every task")
    waiting = await manager.enqueue(job, delay=10 * 86_400)
    clock.set_wall(clock.now() + timedelta(days=1.5))
    recent = [await manager.enqueue(job) for _ in range(3)]
    for task_id in recent:
        await finish(manager, task_id)

    async def cleaned() -> bool:
        await clock.advance(1.0)
        return await fleet.number(TaskQuery()) == 4

    await eventually(cleaned, "the end of old history")
    left = {record.task_id for record in await fleet.records(TaskQuery())}
    assert left == {waiting, *recent}
    assert await fleet.storage.logs(old[0]) == []
    limits = [args[1] for name, args in fleet.wires[manager].calls if name == "delete_finished"]
    assert len(limits) >= 3
    assert max(limits) <= 500


async def test_log_entries_and_error_text_are_capped_and_say_so(fleet: Fleet) -> None:
    manager = fleet.manager()

    @manager.task(persist=True)
    async def talkative() -> None:
        for number in range(MAX_LOG_ENTRIES + 500):
            task_log(f"line {number}")
        task_log("y" * (MAX_TEXT + 9))
        raise ValueError("x" * (MAX_TEXT + 7))

    @manager.task(persist=True)
    async def verbose() -> None:
        task_log("y" * (MAX_TEXT + 9))

    await fleet.start(manager)
    task_id, other = await manager.enqueue(talkative), await manager.enqueue(verbose)
    await finish(manager, task_id)
    await finish(manager, other)
    logs = await manager.engine.lookup.logs(task_id)
    stored = await fleet.storage.get(task_id)
    assert stored is not None
    assert [entry.message for entry in logs] == [f"line {number}" for number in range(MAX_LOG_ENTRIES)]
    assert stored.logs_dropped == 501
    assert stored.error == "x" * MAX_TEXT + "… [7 characters cut]"
    assert stored.stacktrace is not None
    assert "characters cut]" in stored.stacktrace
    assert len(stored.stacktrace) < MAX_TEXT + 100
    [line] = await manager.engine.lookup.logs(other)
    assert line.message == "y" * MAX_TEXT + "… [9 characters cut]"
