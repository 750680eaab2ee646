"""Limits of queues and executors, turned while tasks run."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable

import pytest

from taskflow_otel import QueueConfig, TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.model.query import TaskQuery
from tests.managers import started
from tests.waiting import eventually


class Yard:
    """Tasks that stay inside until they are let go, and a note of how many were inside when each came."""

    def __init__(self) -> None:
        self.inside: list[asyncio.Event] = []
        self.crowds: list[int] = []
        self.done = 0

    async def job(self) -> None:
        door = asyncio.Event()
        self.crowds.append(len(self.inside))
        self.inside.append(door)
        await door.wait()
        self.inside.remove(door)
        self.done += 1

    def release(self, number: int | None = None) -> None:
        """Let the oldest `number` tasks end, or all of them."""
        for door in self.inside[:number]:
            door.set()

    async def let_one_go(self) -> None:
        """Let the oldest task end, and see it gone."""
        await eventually(lambda: bool(self.inside), "a task to be inside", interval=0.001)
        gone = self.done + 1
        self.release(1)
        await eventually(lambda: self.done == gone, "it to end", interval=0.001)

    async def holds(self, number: int) -> None:
        """Wait until `number` tasks are inside."""
        await eventually(lambda: len(self.inside) == number, f"{number} tasks to be inside", interval=0.001)


@pytest.fixture(params=["memory", "committed"])
def backend(request: pytest.FixtureRequest) -> MemoryBackend:
    return MemoryBackend(durable=request.param == "committed")


async def test_a_full_queue_that_is_lowered_lets_its_tasks_end_and_starts_none_above_the_new_limit(
    backend: MemoryBackend,
) -> None:
    yard = Yard()
    async with started(TaskManager(snapshot_backend=backend, queues={"q": QueueConfig(concurrency=8)})) as manager:
        job = manager.task(persist=backend.durable, queue="q")(yard.job)
        for _ in range(20):
            await manager.enqueue(job)
        await yard.holds(8)

        await manager.update_queue_config("q", concurrency=3)
        yard.release(5)
        await eventually(lambda: yard.done == 5, "five tasks to end")
        await yard.holds(3)
        assert len(yard.crowds) == 8, "a task started while the queue was above its limit"

        yard.release(1)
        await eventually(lambda: len(yard.crowds) == 9, "the next task to start")
        assert yard.crowds[-1] == 2

        await manager.update_queue_config("q", concurrency=6)
        await yard.holds(6)
        await manager.update_queue_config("q", concurrency=None)
        await yard.holds(20 - yard.done)
        yard.release()
        await eventually(lambda: yard.done == 20, "every task to end")


async def test_a_limit_that_goes_to_one_and_back_a_hundred_times_never_sticks_and_never_leaks(
    backend: MemoryBackend,
) -> None:
    draw = random.Random(4)
    inside, most = 0, 0

    async def job() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(draw.randint(0, 5)):
            await asyncio.sleep(0)
        inside -= 1

    async with started(TaskManager(snapshot_backend=backend, queues={"q": QueueConfig(concurrency=4)})) as manager:
        function = manager.task(persist=backend.durable, queue="q", retries=1)(job)
        ids = []
        for _ in range(100):
            ids += [await manager.enqueue(function) for _ in range(10)]
            await manager.update_queue_config("q", concurrency=1)
            slots = manager.queue_stats()["q"].running
            for _ in range(draw.randint(1, 8)):
                await asyncio.sleep(0)
                used = manager.queue_stats()["q"].running
                assert used <= max(1, slots), "a slot was given above the limit of one"
                slots = used
            await manager.update_queue_config("q", concurrency=4)
        for task_id in ids:
            assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.SUCCESS
        stats = manager.queue_stats()["q"]
    assert most == 4
    assert (stats.running, stats.ready, stats.delayed) == (0, 0, 0)


async def test_at_most_max_concurrent_tasks_run_over_all_queues() -> None:
    yard = Yard()
    queues = {name: QueueConfig(concurrency=4) for name in "abc"}
    async with started(TaskManager(queues=queues, max_concurrent_tasks=5)) as manager:
        job = manager.task()(yard.job)
        for number in range(30):
            await manager.enqueue(job, queue="abc"[number % 3])
        for _ in range(30):
            await yard.let_one_go()
            await yard.holds(min(5, 30 - yard.done))
    assert max(yard.crowds) == 4
    assert yard.done == 30


async def test_queues_that_compete_for_slots_take_turns() -> None:
    order: list[str] = []

    async def job(name: str) -> None:
        order.append(name)

    async with started(TaskManager(queues={"a": QueueConfig(), "b": QueueConfig()}, max_concurrent_tasks=1)) as manager:
        manager.task(name="job")(job)
        await manager.pause_queue("a")
        await manager.pause_queue("b")
        ids = [await manager.enqueue(job, name, queue=name) for name in "aaaabbbb"]
        await manager.resume_queue("a")
        await manager.resume_queue("b")
        for task_id in ids:
            await manager.wait(task_id, timeout=60)
    # The first slot goes to the queue that was resumed first, before the other one is.
    assert "".join(order) in {"abababab", "aabababb"}


async def test_at_most_max_sync_threads_functions_run_in_threads() -> None:
    lock, inside, most = threading.Lock(), 0, 0
    release = threading.Event()

    def job() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        release.wait()
        with lock:
            inside -= 1

    async with started(TaskManager(max_sync_threads=3)) as manager:
        function = manager.task()(job)
        ids = [await manager.enqueue(function) for _ in range(12)]
        await eventually(lambda: inside == 3, "three threads to be busy")
        assert manager.queue_stats()["default"].ready == 9
        statuses = [(await manager.get(task_id)).status for task_id in ids]
        assert statuses.count(TaskStatus.RUNNING) == 3, "a task without a thread is not running"
        release.set()
        for task_id in ids:
            assert (await manager.wait(task_id, timeout=60)).status is TaskStatus.SUCCESS
    assert most == 3


async def test_a_saturated_queue_lets_a_later_task_of_higher_priority_overtake() -> None:
    order: list[str] = []
    hold = asyncio.Event()

    async def job(name: str) -> None:
        order.append(name)
        await hold.wait()

    async with started(TaskManager(queues={"q": QueueConfig(concurrency=1)})) as manager:
        manager.task(name="job", queue="q")(job)
        for name, priority in [("first", None), ("low", 1), ("five", 5), ("none", None), ("high", 9), ("high2", 9)]:
            await manager.enqueue(job, name, priority=priority)
        await eventually(lambda: order == ["first"], "the first to start")
        hold.set()
        await eventually(lambda: len(order) == 6, "all to run")
    assert order == ["first", "high", "high2", "five", "none", "low"]


async def test_a_retry_waits_in_line_like_everybody_else() -> None:
    yard = Yard()
    attempts = 0

    async def flaky() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ValueError

    async with started(TaskManager(queues={"q": QueueConfig(concurrency=1)})) as manager:
        failing = manager.task(queue="q", retries=1)(flaky)
        job = manager.task(queue="q")(yard.job)
        await manager.pause_queue("q")
        retried = await manager.enqueue(failing)
        await manager.enqueue(job)
        await manager.resume_queue("q")
        await yard.holds(1)
        assert attempts == 1
        assert (await manager.get(retried)).status is TaskStatus.PENDING
        yard.release()
        assert (await manager.wait(retried, timeout=60)).status is TaskStatus.SUCCESS
    assert yard.crowds == [0]


async def test_what_comes_back_after_a_restart_obeys_the_limits() -> None:
    yard = Yard()
    backend = MemoryBackend(durable=True)

    def new_manager() -> tuple[TaskManager, Callable[[], Awaitable[None]]]:
        manager = TaskManager(snapshot_backend=backend, queues={"q": QueueConfig(concurrency=2)}, shutdown_timeout=0)
        return manager, manager.task(name="job", queue="q", persist=True, requeue_on_interrupt=True)(yard.job)

    first, job = new_manager()
    async with started(first):
        for _ in range(30):
            await first.enqueue(job)
        await yard.holds(2)
    yard.inside.clear()

    second, _ = new_manager()
    async with started(second):
        for _ in range(30):
            await yard.let_one_go()
            await yard.holds(min(2, 30 - yard.done))
        counts = await second.engine.lookup.counts(TaskQuery())
    assert max(yard.crowds) == 1
    assert yard.done == 30
    assert counts.by_status == {TaskStatus.SUCCESS: 30}


async def test_a_cancelled_crowd_of_waiting_tasks_leaves_nothing_in_the_queue() -> None:
    async def job() -> None: ...

    async with started(TaskManager(queues={"q": QueueConfig(max_size=500)})) as manager:
        function = manager.task(queue="q")(job)
        await manager.pause_queue("q")
        for _ in range(3):
            ids = [await manager.enqueue(function) for _ in range(500)]
            for task_id in ids:
                await manager.cancel(task_id)
        stats = manager.queue_stats()["q"]
        assert (stats.ready, stats.oldest_ready_age) == (0, 0.0)
        last = await manager.enqueue(function)
        await manager.resume_queue("q")
        assert (await manager.wait(last, timeout=60)).status is TaskStatus.SUCCESS
