"""The drain: what becomes of running and waiting tasks when the manager shuts down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from taskflow_otel import (
    InMemoryLogger,
    QueueConfig,
    TaskManager,
    TaskStatus,
    get_task_context,
)
from taskflow_otel.testing.clock import settle
from tests.managers import WAIT, Gate, finish, started, status_of
from tests.waiting import eventually

FAST_DRAIN: dict[str, Any] = {"shutdown_timeout": 0.05}


class Life:
    """One life of a process: a manager on a database, whose tasks note what they do."""

    def __init__(self, database: Path, **options: Any) -> None:
        self.manager = TaskManager(snapshot_db=database, queues={"one": QueueConfig(concurrency=1)}, **options)
        self.log: list[str] = []
        self.gate = Gate()
        log, gate = self.log, self.gate

        @self.manager.task(persist=True)
        async def kept(what: str = "kept") -> None:
            log.append(what)

        @self.manager.task(persist=True)
        async def long() -> None:
            log.append("long began")
            await gate.run()
            log.append("long ended")

        @self.manager.task(persist=True, requeue_on_interrupt=True, retries=2)
        async def again() -> None:
            log.append("again began")
            await gate.run()
            log.append("again ended")

        @self.manager.task()
        async def passing() -> None:
            log.append("passing")

        self.kept, self.long, self.again, self.passing = kept, long, again, passing


async def test_the_drain_lets_running_tasks_end(tmp_path: Path) -> None:
    life = Life(tmp_path / "tasks.db")
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.long)
    await life.gate.entered.wait()
    stopping = asyncio.create_task(life.manager.shutdown())
    await settle()
    assert not stopping.done()
    life.gate.opened.set()
    await stopping
    assert life.log == ["long began", "long ended"]
    async with started(Life(tmp_path / "tasks.db").manager) as later:
        assert await status_of(later, task_id) is TaskStatus.SUCCESS


async def test_persisted_tasks_that_wait_survive_the_drain_and_others_say_that_they_never_ran(tmp_path: Path) -> None:
    life = Life(tmp_path / "tasks.db", **FAST_DRAIN)
    await life.manager.startup()
    await life.manager.pause_queue("one")
    kept = await life.manager.enqueue(life.kept, queue="one")
    delayed = await life.manager.enqueue(life.kept, "delayed", delay=0.01, queue="one")
    passing = await life.manager.enqueue(life.passing, queue="one")
    await life.manager.shutdown()
    assert life.log == []

    again = Life(tmp_path / "tasks.db")
    async with started(again.manager) as manager:
        await manager.resume_queue("one")
        for task_id in (kept, delayed):
            record = await finish(manager, task_id)
            assert (record.status, record.retries_used, record.crashes) == (TaskStatus.SUCCESS, 0, 0)
        record = await manager.get(passing)
        assert (record.status, record.reason) == (TaskStatus.CANCELLED, "shutdown")
    assert sorted(again.log) == ["delayed", "kept"]


async def test_an_interruption_by_the_drain_runs_again_where_that_was_allowed_and_costs_no_retry(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path / "tasks.db", **FAST_DRAIN)
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.again)
    await life.gate.entered.wait()
    await life.manager.shutdown()
    assert life.gate.cancelled
    assert life.log == ["again began"]

    next_life = Life(tmp_path / "tasks.db")
    next_life.gate.opened.set()
    async with started(next_life.manager) as manager:
        record = await finish(manager, task_id)
    assert (record.status, record.retries_used, record.crashes) == (TaskStatus.SUCCESS, 0, 0)
    assert next_life.log == ["again began", "again ended"]


async def test_an_interruption_by_the_drain_is_visible_and_can_be_retried_where_it_was_not_allowed(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path / "tasks.db", **FAST_DRAIN)
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.long)
    await life.gate.entered.wait()
    await life.manager.shutdown()

    next_life = Life(tmp_path / "tasks.db")
    next_life.gate.opened.set()
    async with started(next_life.manager) as manager:
        record = await manager.get(task_id)
        assert (record.status, record.reason) == (TaskStatus.INTERRUPTED, "shutdown")
        assert next_life.log == []
        retried = await finish(manager, (await manager.retry(task_id)).task_id)
        assert retried.status is TaskStatus.SUCCESS


async def test_a_retry_that_waits_survives_the_drain(tmp_path: Path) -> None:
    runs: list[int] = []

    def make() -> tuple[TaskManager, Callable[[], Awaitable[None]]]:
        manager = TaskManager(snapshot_db=tmp_path / "tasks.db", **FAST_DRAIN)

        @manager.task(persist=True, retries=1, delay=0.2)
        async def flaky() -> None:
            runs.append(get_task_context().attempt)
            if len(runs) == 1:
                raise ValueError("not yet")

        return manager, flaky

    manager, flaky = make()
    await manager.startup()
    task_id = await manager.enqueue(flaky)
    await eventually(lambda: bool(runs), "the first attempt")
    await manager.shutdown()
    manager, _ = make()
    async with started(manager):
        record = await finish(manager, task_id)
    assert (record.status, record.retries_used) == (TaskStatus.SUCCESS, 1)
    assert runs == [0, 1]


async def test_threads_are_asked_to_stop_by_the_drain(tmp_path: Path) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", **FAST_DRAIN)
    entered = threading.Event()

    @manager.task()
    def work() -> None:
        context = get_task_context()
        entered.set()
        pause = threading.Event()
        while True:
            pause.wait(0.005)
            context.raise_if_cancelled()

    await manager.startup()
    task_id = await manager.enqueue(work)
    await asyncio.to_thread(entered.wait, WAIT)
    await manager.shutdown()
    async with started(TaskManager(snapshot_db=tmp_path / "tasks.db")) as later:
        record = await later.get(task_id)
    assert (record.status, record.reason) == (TaskStatus.INTERRUPTED, "shutdown")


async def test_every_outcome_reaches_the_observers_before_the_shutdown_returns() -> None:
    observer = InMemoryLogger()
    manager = TaskManager(loggers=[observer])
    await manager.startup()
    ids = [await manager.enqueue(lambda: None) for _ in range(50)]
    await manager.shutdown()
    ended = {event.task_id for event in observer.lifecycle if event.status.finished}
    assert ended == set(ids)


async def test_a_manager_can_be_started_again_after_its_end() -> None:
    manager = TaskManager()
    for _ in range(2):
        async with started(manager):
            assert (await finish(manager, await manager.enqueue(lambda: None))).status is TaskStatus.SUCCESS
    await manager.shutdown()
    assert manager.engine.state == "stopped"
