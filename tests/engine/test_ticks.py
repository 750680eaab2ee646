"""A round of what is due, in a process in which nothing happens by itself."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel import SLO, NotStartedError, QueueConfig, TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.deployment import RUN
from taskflow_otel.testing.clock import FakeClock
from tests.managers import Gate, finish, started, transitions
from tests.waiting import eventually

RARELY = 3600.0


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> MemoryBackend:
    monkeypatch.setattr("taskflow_otel.engine.fleet.pool.POLL", RARELY)
    return MemoryBackend(durable=True)


def member(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, run: str) -> TaskManager:
    monkeypatch.setenv(RUN, run)
    return TaskManager(snapshot_backend=backend, queues={"default": QueueConfig(concurrency=2, run="pool")})


async def test_a_round_runs_what_is_in_the_pool_and_the_retries_that_are_due(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[int]()

    async def work(number: int) -> None:
        tries.append(number)
        if number == 0 and tries.count(0) == 1:
            raise RuntimeError("again")

    web, frozen = member(backend, monkeypatch, "none"), member(backend, monkeypatch, "pool")
    for one in (web, frozen):
        one.task(persist=True, name="work", retries=1, delay=0.05)(work)
    async with started(web), started(frozen):
        ids = [await web.enqueue(work, number) for number in range(5)]
        total = 0
        while len(tries) < 6:
            done = await frozen.engine.ticks.tick(5)
            assert done.left == 0
            total += done.started
        assert total == 6
        assert sorted(tries) == [0, 0, 1, 2, 3, 4]
        for task_id in ids:
            await finish(web, task_id)


async def test_a_round_ends_after_its_time_and_says_what_is_left(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    manager = member(backend, monkeypatch, "pool")
    manager.task(persist=True, name="work")(gate.run)
    with pytest.raises(NotStartedError):
        await manager.engine.ticks.tick(1)
    async with started(manager):
        task_id = await manager.enqueue(gate.run)
        await asyncio.wait_for(gate.entered.wait(), 20)
        assert await manager.engine.ticks.tick(0.01) == (0, 1)
        ending = asyncio.ensure_future(manager.engine.ticks.tick(20))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await ending == (0, 0)
        await finish(manager, task_id)
        assert await manager.engine.ticks.tick(20) == (0, 0)


async def test_a_round_judges_the_time_limits_that_have_passed_in_the_pool(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN, "none")
    clock = FakeClock()

    async def work() -> None: ...

    def life() -> TaskManager:
        queues = {"default": QueueConfig(run="pool")}
        manager = TaskManager(snapshot_backend=backend, clock=clock, queues=queues)
        manager.task(persist=True, name="work", slo=SLO(success=0.9, within=5))(work)
        return manager

    async with started(life()) as first:
        task_id = await first.enqueue(work)

        async def pooled() -> bool:
            return (await first.get(task_id)).instance == POOL

        await eventually(pooled, "the gift", interval=0.002)
    await clock.advance(6)
    # Its clock stands still: none of its services has a round of its own.
    async with started(life()) as frozen:
        await frozen.engine.ticks.tick(0)
        assert transitions(await frozen.get(task_id)) == ["enqueued", "objective_missed"]
        assert frozen.engine.objectives.overdue() == {"work": 1}
