"""The end of a life, the beginning of the next, and that nothing is left of either."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import (
    InMemoryLogger,
    NotStartedError,
    QueueConfig,
    TaskManager,
    TaskRecord,
    TaskStatus,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.model.query import Instance, TaskQuery
from taskflow_otel.testing.clock import FakeClock, settle
from tests.inside import own_context
from tests.managers import WAIT, Gate, HeldBackend, finish, inserts, started, status_of, updates_to
from tests.waiting import eventually

FAST_DRAIN: dict[str, Any] = {"shutdown_timeout": 0.05}


async def stored(backend: MemoryBackend, ids: Iterable[str]) -> list[TaskRecord]:
    """The ledger's records of these tasks."""
    records = [await backend.get(task_id) for task_id in ids]
    assert None not in records
    return [record for record in records if record is not None]


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_an_interruption_by_a_deploy_costs_no_retry_and_what_was_promised_runs(executor: str) -> None:
    backend = MemoryBackend(durable=True)
    clock = FakeClock()
    lives = 0
    ran: list[str] = []
    release = threading.Event()

    def life() -> tuple[TaskManager, dict[str, Any]]:
        manager = TaskManager(
            snapshot_backend=backend, clock=clock, shutdown_timeout=0, max_concurrent_tasks=2, max_sync_threads=2
        )

        def enter(name: str) -> bool:
            ran.append(f"{name} in life {lives}")
            if name == "retry" and lives == 1:
                raise ValueError
            return lives == 1

        async def async_job(name: str) -> None:
            if enter(name):
                await asyncio.Event().wait()

        def thread_job(name: str) -> None:
            if enter(name):
                while not release.is_set():
                    own_context().raise_if_cancelled()

        job = async_job if executor == "async" else thread_job
        options: dict[str, Any] = {"retries": 1, "delay": 60}
        functions = {
            "again": manager.task(name="again", persist=True, requeue_on_interrupt=True, **options)(job),
        }
        return manager, functions

    lives = 1
    first, functions = life()
    await first.startup()
    retried = await first.enqueue(functions["again"], "retry")
    await eventually(lambda: "retry in life 1" in ran, "the first attempt")
    await eventually(lambda: first.queue_stats()["default"].delayed == 1, "the wait for the retry")
    running_now = [await first.enqueue(functions["again"], f"running {n}") for n in range(2)]
    await eventually(lambda: len(ran) == 3, "two tasks to run")
    waiting = [await first.enqueue(functions["again"], f"waiting {n}") for n in range(20)]
    await first.shutdown()
    assert {record.status for record in await stored(backend, [retried, *running_now, *waiting])} == {
        TaskStatus.PENDING
    }
    assert all(record.retries_used == 0 for record in await stored(backend, running_now))

    lives = 2
    second, _ = life()
    async with started(second):
        await eventually(lambda: len(ran) == 3 + 22, "everything promised but the retry to run")
        assert "retry in life 2" not in ran
        await clock.advance(60)
        await eventually(lambda: second.store.list() == [], "everything to end")
    assert "retry in life 2" in ran
    everything = [retried, *running_now, *waiting]
    records = await stored(backend, everything)
    assert {record.status for record in records} == {TaskStatus.SUCCESS}
    assert [record.retries_used for record in records] == [1] + [0] * 22
    assert {record.crashes for record in records} == {0}


async def test_tasks_that_nobody_promised_to_keep_end_cancelled_by_the_shutdown() -> None:
    backend = MemoryBackend()
    manager = TaskManager(snapshot_backend=backend)

    @manager.task()
    async def job() -> None:
        pytest.fail("it ran")

    await manager.startup()
    await manager.pause_queue("default")
    ids = [await manager.enqueue(job) for _ in range(500)]
    ids.append(await manager.enqueue(job, delay=60))
    await manager.shutdown()
    assert {(r.status, r.reason) for r in await stored(backend, ids)} == {(TaskStatus.CANCELLED, "shutdown")}


async def test_a_task_that_is_being_committed_when_the_shutdown_comes_is_kept() -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend, shutdown_timeout=0.05)

    @manager.task(name="job", persist=True)
    async def job() -> None: ...

    await manager.startup()
    backend.hold = inserts
    adding = asyncio.create_task(manager.enqueue(job))
    await backend.holding.wait()
    stopping = asyncio.create_task(manager.shutdown())
    await eventually(lambda: manager.engine.state == "draining", "the drain to begin")
    await settle()
    backend.release()
    task_id = await adding
    await stopping
    (record,) = await stored(backend, [task_id])
    assert record.status is TaskStatus.PENDING
    async with started(manager):
        await manager.wait(task_id, timeout=30)
    (record,) = await stored(backend, [task_id])
    assert record.status is TaskStatus.SUCCESS


async def test_a_backend_that_does_not_answer_does_not_hold_the_shutdown_up() -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend, shutdown_timeout=0.05, cancel_grace=0.05)
    inside = asyncio.Event()

    @manager.task(persist=True)
    async def job() -> None:
        inside.set()
        await asyncio.Event().wait()

    await manager.startup()
    running_task = await manager.enqueue(job)
    await inside.wait()
    await manager.pause_queue("default")
    keyed = await manager.enqueue(manager.task(name="keyed")(_nothing), idempotency_key="k")
    backend.hold = lambda change: updates_to("interrupted")(change) or updates_to("cancelled")(change)
    await manager.shutdown()
    backend.release()
    # The ledger holds what it held; the next life finds out.
    assert [record.status for record in await stored(backend, [running_task, keyed])] == [
        TaskStatus.RUNNING,
        TaskStatus.PENDING,
    ]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def _nothing() -> None: ...


async def test_history_is_complete_after_the_shutdown() -> None:
    backend = MemoryBackend()
    manager = TaskManager(snapshot_backend=backend, snapshot_interval=3600)

    @manager.task()
    async def job() -> None: ...

    async with started(manager):
        for _ in range(50):
            await manager.enqueue(job)
        await eventually(lambda: manager.store.list() == [], "the tasks to end")
    counts = await backend.counts(TaskQuery())
    assert counts.by_status == {TaskStatus.SUCCESS: 50}


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


async def test_the_drain_lets_running_tasks_end_and_takes_nothing_new(tmp_path: Path) -> None:
    life = Life(tmp_path / "tasks.db")
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.long)
    await life.gate.entered.wait()
    stopping = asyncio.create_task(life.manager.shutdown())
    await eventually(lambda: life.manager.engine.state == "draining", "the drain to begin")
    with pytest.raises(NotStartedError, match="draining"):
        await life.manager.enqueue(life.long)
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


async def test_an_interruption_by_the_drain_is_visible_and_can_be_retried_where_it_was_not_allowed(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path / "tasks.db", **FAST_DRAIN)
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.long)
    await life.gate.entered.wait()
    await life.manager.shutdown()
    assert life.gate.cancelled

    next_life = Life(tmp_path / "tasks.db")
    next_life.gate.opened.set()
    async with started(next_life.manager) as manager:
        record = await manager.get(task_id)
        assert (record.status, record.reason) == (TaskStatus.INTERRUPTED, "shutdown")
        assert next_life.log == []
        retried = await finish(manager, (await manager.retry(task_id)).task_id)
        assert retried.status is TaskStatus.SUCCESS


async def test_threads_are_asked_to_stop_by_the_drain(tmp_path: Path) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", **FAST_DRAIN)
    entered = threading.Event()

    @manager.task()
    def work() -> None:
        context = own_context()
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
    ended = {event.task_id for event in observer.lifecycle_events if event.status.finished}
    assert ended == set(ids)


async def test_what_waits_and_is_not_persisted_runs_within_the_timeout_and_only_that() -> None:
    backend = MemoryBackend(durable=True)
    manager = TaskManager(snapshot_backend=backend, max_concurrent_tasks=1)
    ran: list[str] = []
    gate = Gate()

    @manager.task(name="plain", retries=1)
    async def plain(word: str, *, fails: bool = False) -> None:
        ran.append(word)
        if fails and ran.count(word) == 1:
            raise ValueError(word)

    @manager.task(name="kept", persist=True)
    async def kept() -> None:
        pytest.fail("it ran")

    first = manager.task(name="first")(gate.run)
    await manager.startup()
    await manager.enqueue(first)
    await gate.entered.wait()
    words = [str(number) for number in range(300)]
    for word in words:
        await manager.enqueue(plain, word)
    await manager.enqueue(plain, "retried", fails=True)
    await manager.enqueue(plain, "delayed", delay=0.05)
    await manager.enqueue(plain, "keyed", idempotency_key="k")
    left = await manager.enqueue(kept)
    stopping = asyncio.create_task(manager.shutdown())
    await eventually(lambda: manager.engine.state == "draining", "the drain to begin")
    gate.opened.set()
    await stopping
    assert sorted(ran) == sorted([*words, "retried", "retried", "delayed", "keyed"])
    (record,) = await stored(backend, [left])
    assert record.status is TaskStatus.PENDING


async def test_what_the_shutdown_gives_up_is_named_in_one_line_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    backend = MemoryBackend()
    manager = TaskManager(snapshot_backend=backend, max_concurrent_tasks=1, shutdown_timeout=0.05)
    gate = Gate()
    jobs = [manager.task(name="mail")(_nothing), manager.task(name="bill")(Gate().run)]
    await manager.startup()
    await manager.enqueue(manager.task(name="gate")(gate.run))
    await gate.entered.wait()
    ids = [await manager.enqueue(job) for job in (*jobs, jobs[0])]
    ids.append(await manager.enqueue(jobs[1], delay=3_600))
    await manager.shutdown()
    assert {(r.status, r.reason) for r in await stored(backend, ids)} == {(TaskStatus.CANCELLED, "shutdown")}
    [line] = [record.getMessage() for record in caplog.records if "gave up" in record.getMessage()]
    assert "gave up 4 waiting tasks" in line
    assert "mail (2), bill (2)" in line


class Hung(MemoryBackend):
    """A durable backend that from some moment on answers nothing, and some of it not even when it is cancelled."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.hung = False
        self.end = asyncio.Event()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        while self.hung and not self.end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.end.wait()
        return await super().apply(changes)

    async def beat(self, instance: Instance) -> bool:
        if self.hung:
            await self.end.wait()
        return await super().beat(instance)

    async def instances(self) -> list[Instance]:
        if self.hung:
            await self.end.wait()
        return await super().instances()

    async def put_setting(self, key: str, value: str | None) -> None:
        if self.hung:
            await self.end.wait()
        await super().put_setting(key, value)

    async def close(self) -> None:
        if self.hung:
            await self.end.wait()
        await super().close()


async def test_a_hung_backend_holds_the_shutdown_up_for_its_timeout_and_grace_and_no_longer() -> None:
    backend = Hung()
    manager = TaskManager(snapshot_backend=backend, shutdown_timeout=1.0, cancel_grace=2.0)
    gates = [Gate() for _ in range(3)]
    jobs = [manager.task(name=f"job{number}", persist=True)(gate.run) for number, gate in enumerate(gates)]
    await manager.startup()
    for job, gate in zip(jobs, gates, strict=True):
        await manager.enqueue(job)
        await gate.entered.wait()
    backend.hung = True
    gates[0].opened.set()
    began = asyncio.get_running_loop().time()
    await manager.shutdown()
    # Each of its steps alone may take as long as the grace: one after the other they took more than ten seconds.
    assert asyncio.get_running_loop().time() - began < 6.0
    backend.end.set()
    await eventually(lambda: len(asyncio.all_tasks()) == 1, "what was left behind to end")
