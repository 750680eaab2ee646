"""One idempotency key, two instances, the same moment: one execution."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException

from taskflow_otel import ManagedBackgroundTasks, TaskManager, TaskNotFoundError, TaskStatus
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.clock import FakeClock
from tests.ledger.fleet import Fleet
from tests.managers import finish, transitions
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


async def _nothing() -> None:
    pass


async def test_a_key_is_free_again_when_the_task_that_held_it_is_deleted_here_or_elsewhere(fleet: Fleet) -> None:
    one, other = fleet.manager(), fleet.manager()
    job, _ = (manager.task(name="job", persist=True)(_nothing) for manager in (one, other))
    await fleet.start(one, other)
    ids = [await one.enqueue(job, idempotency_key="k")]
    for deleter in (one, other):
        assert (await finish(one, ids[-1])).status is TaskStatus.SUCCESS
        assert await one.enqueue(job, idempotency_key="k") == ids[-1]
        assert await deleter.engine.cleaner.delete(datetime.now(UTC)) == 1
        ids.append(await one.enqueue(job, idempotency_key="k"))
    assert (await finish(one, ids[-1])).status is TaskStatus.SUCCESS
    assert len(set(ids)) == 3


async def test_retention_frees_the_keys_of_what_it_deletes(fleet: Fleet) -> None:
    clock = FakeClock()
    manager = fleet.manager(retention_days=1, clock=clock)
    job = manager.task(persist=True)(_nothing)
    await fleet.start(manager)
    first = await manager.enqueue(job, idempotency_key="k")
    await finish(manager, first)
    clock.set_wall(clock.now() + timedelta(days=2))

    async def is_deleted() -> bool:
        await clock.advance(10)
        return await fleet.storage.get(first) is None

    await eventually(is_deleted, "the end of the retention")
    second = await manager.enqueue(job, idempotency_key="k")
    assert second != first
    assert (await finish(manager, second)).status is TaskStatus.SUCCESS


async def test_the_id_of_a_duplicate_that_was_found_at_the_commit_leads_to_the_original_after_a_kill(
    fleet: Fleet,
) -> None:
    app = FastAPI()
    # History alone would be written in an hour.
    one, other = fleet.manager(snapshot_interval=3600), fleet.manager()
    job, _ = (manager.task(name="job", persist=True)(_nothing) for manager in (one, other))
    one.install(app)

    @app.post("/")
    async def route(tasks: BackgroundTasks) -> list[str]:
        return [tasks.add_task(job, idempotency_key=key) for key in ("k", "free")]  # type: ignore[call-arg,func-returns-value,misc]  # ours

    await fleet.start(one, other)
    first = await other.enqueue(job, idempotency_key="k", delay=3600)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        duplicate, new = (await client.post("/")).json()
    await fleet.die(one)
    refused = await other.get(duplicate)
    assert (refused.status, refused.reason, refused.duplicate_of) == (TaskStatus.REJECTED, "duplicate", first)
    assert await fleet.storage.holder_of("k") == first
    assert (await other.get(new)).status is not TaskStatus.REJECTED


class Shop:
    """One manager with a route, another one beside it, and what the task has done."""

    def __init__(self, fleet: Fleet) -> None:
        self.one, self.other = fleet.manager(), fleet.manager()
        self.runs = 0

        async def job() -> None:
            self.runs += 1

        self.job, _ = (manager.task(name="job", persist=True)(job) for manager in (self.one, self.other))
        self.app = FastAPI()
        self.one.install(self.app)

        @self.app.post("/")
        async def route(tasks: ManagedBackgroundTasks, fails: bool = False) -> str:
            task_id = tasks.add_task(self.job, idempotency_key="k")
            if fails:
                raise HTTPException(400, task_id)
            return task_id

    async def post(self, query: str = "") -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
            answer = (await client.post(f"/{query}")).json()
            task_id: str = answer["detail"] if isinstance(answer, dict) else answer
            return task_id


async def test_a_request_that_repeats_a_successful_task_gets_its_id_and_leaves_no_trace(fleet: Fleet) -> None:
    shop = Shop(fleet)
    await fleet.start(shop.one)
    first = await shop.post()
    await finish(shop.one, first)
    for query in ("", "?fails=true", ""):
        assert await shop.post(query) == first
    stored = await shop.one.get(first)
    assert (stored.status, transitions(stored)) == (TaskStatus.SUCCESS, ["enqueued", "started", "succeeded"])
    assert await fleet.number(TaskQuery()) == shop.runs == 1
    assert shop.one.queue_stats()["default"].ready == 0


async def test_a_request_that_repeats_a_deleted_task_has_its_own_run(fleet: Fleet) -> None:
    shop = Shop(fleet)
    await fleet.start(shop.one, shop.other)
    first = await shop.post()
    await finish(shop.one, first)
    # Nobody tells this process: it gives the id away before it can ask.
    assert await shop.other.engine.cleaner.delete(datetime.now(UTC)) == 1
    again = await shop.post()
    assert (await finish(shop.one, again)).status is TaskStatus.SUCCESS
    stored = await shop.other.get(again)
    assert (stored.status, shop.runs) == (TaskStatus.SUCCESS, 2)
    assert await shop.one.engine.cleaner.delete(datetime.now(UTC)) == 1
    with pytest.raises(TaskNotFoundError):
        await shop.one.get(again)
    third = await shop.post()
    assert third != again
    assert (await finish(shop.one, third)).status is TaskStatus.SUCCESS
    assert shop.runs == 3


async def test_of_several_requests_that_repeat_a_deleted_task_at_once_one_runs(fleet: Fleet) -> None:
    shop = Shop(fleet)
    await fleet.start(shop.one, shop.other)
    await finish(shop.one, await shop.post())
    assert await shop.other.engine.cleaner.delete(datetime.now(UTC)) == 1
    ids = await asyncio.gather(*(shop.post() for _ in range(5)))
    await eventually(lambda: not shop.one.store.list(), "the end of all tasks")
    assert shop.runs == 2
    for task_id in set(ids):
        record = await shop.other.get(task_id)
        assert record.status is TaskStatus.SUCCESS or record.duplicate_of in ids
    [held] = await fleet.records(TaskQuery(status=TaskStatus.SUCCESS))
    assert held.task_id in ids
