"""Every instance tells the same of the pool: what waits there, for how long, and whether anybody claims it."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.backends.base import Insert
from taskflow_otel.backends.pool import Pooled, Wanted
from taskflow_otel.engine.fleet.pool_watch import PoolLoad, PoolWatch
from taskflow_otel.engine.queues import Queues
from taskflow_otel.model.board import QueueLoad, Said
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.testing.clock import FakeClock
from tests.engine.fleet.test_pool import SHARED, Kept, in_pool, member
from tests.managers import finish, started
from tests.waiting import eventually

BESIDE = {"own": QueueConfig(), **SHARED}


async def work() -> None:
    """Nothing."""


async def test_a_process_that_claims_nothing_tells_what_waits_and_that_nobody_claims_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = Kept()
    web = member(backend, work, monkeypatch, "none", lease_seconds=1.0)
    worker = member(backend, work, monkeypatch, lease_seconds=1.0)

    def shown(manager: TaskManager, name: str) -> float | None:
        return manager.metrics.registry.get_sample_value(name, {"queue": "shared"})

    async def told(manager: TaskManager, name: str, value: float) -> None:
        await eventually(lambda: shown(manager, name) == value, f"{name} to be {value}")

    async with started(web):
        assert web.engine.pool is not None
        assert [(one.queue, one.tasks, one.oldest_age) for one in web.engine.pool.loads()][-1] == ("shared", 0, 0.0)
        task_id = await web.enqueue(work)
        await in_pool(web, task_id)
        await told(web, "taskflow_pool_depth", 1)
        assert (shown(web, "taskflow_pool_oldest_age_seconds") or 0) > 0
        assert shown(web, "taskflow_pool_claimers") == 0
        async with started(worker):
            await finish(web, task_id)
            for each in (web, worker):
                await told(each, "taskflow_pool_claimers", 1)
                await told(each, "taskflow_pool_depth", 0)
                assert shown(each, "taskflow_pool_oldest_age_seconds") == 0
            assert [shown(each, "taskflow_pool_claims_total") for each in (web, worker)] == [0, 1]
        await told(web, "taskflow_pool_claimers", 0)


async def test_the_age_grows_between_two_looks_and_only_shared_queues_are_looked_at() -> None:
    backend = Kept()
    await backend.open()
    clock = FakeClock()
    queues = Queues(BESIDE, {"shared"}, lambda _: True)
    said = {
        "web": Said({"shared": QueueLoad(claimed=False), "own": QueueLoad()}),
        "one": Said({"shared": QueueLoad()}),
        "other": Said({"shared": QueueLoad()}),
        "of another kind": Said(),
    }

    async def say() -> dict[str, Said]:
        return said

    watch = PoolWatch(backend.pool_store, queues, say, {"shared": 7}, clock, 1.0)
    assert list(watch.loads()) == [PoolLoad("shared", 0, 0.0, None, 7)]
    await backend.apply([Insert(task := make_task(instance="web", queue="shared"))])
    since = clock.now() - timedelta(seconds=5)
    pooled = Pooled(task.task_id, "shared", task.priority, task.func_name, None, task.created_at, since)
    await backend.pool_store.give("web", [pooled])
    await watch.tick()
    assert list(watch.loads()) == [PoolLoad("shared", 1, 5.0, 2, 7)]
    await clock.advance(60.0)
    assert list(watch.loads()) == [PoolLoad("shared", 1, 65.0, 2, 7)]
    await backend.close()


async def test_a_queue_that_nobody_claims_is_reported_and_logged_once_also_if_it_is_not_declared_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = Kept()
    await backend.open()
    clock = FakeClock()
    said = {"web": Said({"shared": QueueLoad(claimed=False)})}

    async def say() -> dict[str, Said]:
        return said

    watch = PoolWatch(backend.pool_store, Queues(BESIDE, {"shared"}, lambda _: False), say, {}, clock, 1.0)
    assert watch.unclaimed() == []
    tasks = [make_task(instance="web", queue=queue) for queue in ("gone", "gone", "own", "shared")]
    await backend.apply([Insert(task) for task in tasks])
    pooled = [
        Pooled(task.task_id, task.queue, task.priority, task.func_name, None, task.created_at, clock.now())
        for task in tasks
    ]
    await backend.pool_store.give("web", pooled)

    async def logged() -> int:
        await watch.tick()
        return caplog.text.count("no living instance claims them")

    # Workers may be starting.
    assert await logged() == 0
    assert list(watch.loads()) == [PoolLoad("shared", 1, 0.0, 0, 0), PoolLoad("gone", 2, 0.0, 0, 0)]
    # What this process declares and does not share, it claims itself.
    assert watch.unclaimed() == ["shared", "gone"]
    # Objectives of tasks that are not known here cannot be judged here.
    assert watch.waiting() == ["shared"]
    await clock.advance(60.0)
    assert [await logged(), await logged()] == [2, 2]
    assert "2 tasks of queue 'gone' wait in the pool, the oldest for 60 s" in caplog.text
    said["worker"] = Said({"gone": QueueLoad()})
    assert await logged() == 2
    assert (watch.unclaimed(), list(watch.loads())[-1]) == (["shared"], PoolLoad("gone", 2, 60.0, 1, 0))
    del said["worker"]
    assert await logged() == 3
    await backend.pool_store.claim("worker", Wanted("gone", {"send"}, 9), ())
    await watch.tick()
    assert [load.queue for load in watch.loads()] == ["shared"]
    await backend.close()


async def test_one_slow_answer_does_not_let_what_is_told_grow_old() -> None:
    backend, clock = Kept(), FakeClock()
    await backend.open()
    store: Any = backend.pool_store
    looks, seconds, look = list[float](), 0.01, store.depth

    async def depth(*args: Any, **kwargs: Any) -> Any:
        looks.append(clock.monotonic())
        found = await look(*args, **kwargs)
        await clock.advance(seconds)
        return found

    async def say() -> dict[str, Said]:
        return {}

    store.depth = depth
    watch = PoolWatch(store, Queues(BESIDE, {"shared"}, lambda _: True), say, {}, clock, 1.0)

    async def rounds(number: int) -> list[float]:
        """The pauses between the looks of `number` rounds."""
        looks.clear()
        for _ in range(number):
            await clock.advance(1.0)
            await watch.tick()
        return [after - before for before, after in pairwise(looks)]

    assert max(await rounds(5)) < 2
    seconds = 10.0
    await rounds(1)
    seconds = 0.01
    # The backend stood still once.
    assert max(await rounds(5)) < 2
    # It always takes that long to count.
    seconds = 10.0
    assert 50 < max(await rounds(200)) < 75
    await backend.close()
