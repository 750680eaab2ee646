"""One idempotency key, two instances, the same moment: one execution (SPEC G5)."""

from __future__ import annotations

import asyncio
from collections import Counter

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.model.query import TaskQuery
from tests.ledger.fleet import Fleet
from tests.waiting import eventually

KEYS = 1_000


async def test_of_two_tasks_with_one_key_at_the_same_moment_exactly_one_runs(fleet: Fleet) -> None:
    ran: Counter[int] = Counter()

    async def job(number: int) -> None:
        ran[number] += 1

    async def enqueue_all(manager: TaskManager, numbers: range) -> dict[int, str]:
        ids = await asyncio.gather(*(manager.enqueue(job, n, idempotency_key=f"key {n}") for n in numbers))
        return dict(zip(numbers, ids, strict=True))

    # Who wins is the question, and not how fast.
    managers = [fleet.manager(commit_timeout=60) for _ in range(3)]
    for manager in managers:
        manager.task(persist=True)(job)
    one, other, later = managers
    await fleet.start(one, other)

    # In opposite order, so that their transactions also wait for each other crosswise.
    ids, same_ids = await asyncio.gather(enqueue_all(one, range(KEYS)), enqueue_all(other, range(KEYS - 1, -1, -1)))
    assert same_ids == ids
    assert len(set(ids.values())) == KEYS

    async def all_written() -> bool:
        counts = (await fleet.storage.counts(TaskQuery())).by_status
        return counts == {TaskStatus.SUCCESS: KEYS, TaskStatus.REJECTED: KEYS}

    await eventually(all_written, "the end of every task")
    assert ran == Counter(range(KEYS))
    for record in await fleet.records(TaskQuery(status=TaskStatus.REJECTED)):
        assert record.reason == "duplicate"
        assert record.idempotency_key is not None
        assert record.duplicate_of == ids[int(record.idempotency_key.removeprefix("key "))]

    await fleet.stop(one)
    await fleet.stop(other)
    await fleet.start(later)
    assert await enqueue_all(later, range(10)) == {n: ids[n] for n in range(10)}
    assert ran == Counter(range(KEYS))
