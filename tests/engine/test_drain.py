"""The end of a life, the beginning of the next, and that nothing is left of either."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel import (
    InMemoryLogger,
    ManagedBackgroundTasks,
    NotStartedError,
    QueueConfig,
    TaskAdmin,
    TaskManager,
    TaskObserver,
    TaskRecord,
    TaskStatus,
    get_task_context,
)
from taskflow_otel.backends import MemoryBackend, SqliteBackend
from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.errors import BackendError, SchemaVersionError
from taskflow_otel.model.query import Instance, TaskQuery
from taskflow_otel.testing.clock import FakeClock, settle
from tests.engine.managers import HeldBackend, inserts, running, updates_to
from tests.managers import WAIT, Gate, finish, status_of
from tests.waiting import eventually, wait_until

with warnings.catch_warnings():
    # Starlette prefers another client library than the one that is installed.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

FAST_DRAIN: dict[str, Any] = {"shutdown_timeout": 0.05}


def own_threads() -> set[str]:
    """Names of the threads of this library that are alive."""
    return {thread.name for thread in threading.enumerate() if "taskflow" in thread.name}


async def stored(backend: MemoryBackend, ids: Iterable[str]) -> list[TaskRecord]:
    """The ledger's records of these tasks."""
    records = [await backend.get(task_id) for task_id in ids]
    assert None not in records
    return [record for record in records if record is not None]


async def test_running_tasks_finish_within_the_timeout_and_nothing_new_is_taken() -> None:
    manager = TaskManager()
    hold, inside = asyncio.Event(), asyncio.Event()

    @manager.task()
    async def job() -> None:
        inside.set()
        await hold.wait()

    await manager.startup()
    task_id = await manager.enqueue(job)
    await inside.wait()
    stopping = asyncio.create_task(manager.shutdown())
    await eventually(lambda: manager.engine.state == "draining", "the drain to begin")
    with pytest.raises(NotStartedError, match="draining"):
        await manager.enqueue(job)
    assert not stopping.done()
    hold.set()
    await stopping
    record = manager.store.get(task_id)
    assert record is not None
    assert record.status is TaskStatus.SUCCESS


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
                    get_task_context().raise_if_cancelled()

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
    async with running(second):
        await eventually(lambda: len(ran) == 3 + 22, "everything promised but the retry to run")
        assert "retry in life 2" not in ran
        await clock.advance(60)
        await eventually(lambda: second.store.list() == [], "everything to end")
    assert "retry in life 2" in ran
    everything = [retried, *running_now, *waiting]
    records = await stored(backend, everything)
    assert {record.status for record in records} == {TaskStatus.SUCCESS}
    assert [record.retries_used for record in records] == [1] + [0] * 22


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
    async with running(manager):
        await manager.wait(task_id, timeout=5)
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


async def test_no_task_of_the_event_loop_and_no_thread_outlives_the_shutdown(tmp_path: Path) -> None:
    class Observer(TaskObserver):
        """Takes everything."""

    manager = TaskManager(
        snapshot_db=tmp_path / "tasks.db", loggers=[Observer()], log_file=tmp_path / "log", retention_days=1
    )

    @manager.task(persist=True)
    def in_thread() -> None: ...

    @manager.task(persist=True)
    async def in_loop() -> None: ...

    before = own_threads()
    async with running(manager):
        ids = [await manager.enqueue(function) for function in (in_thread, in_loop) for _ in range(20)]
        for task_id in ids:
            await manager.wait(task_id, timeout=10)
        assert own_threads() - before
    assert asyncio.all_tasks() == {asyncio.current_task()}
    # One of an earlier test may end while this one runs.
    await eventually(lambda: own_threads() <= before, "every thread to end")


async def test_a_start_up_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    class Backend(MemoryBackend):
        async def beat(self, instance: Any) -> bool:
            raise BackendError("no heart")

    manager = TaskManager(snapshot_backend=Backend(durable=True), log_file=tmp_path / "log", cancel_grace=0.05)
    before = own_threads()
    with pytest.raises(BackendError, match="no heart"):
        await manager.startup()
    assert manager.engine.state == "stopped"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    # One of an earlier test may end while this one runs.
    await eventually(lambda: own_threads() <= before, "every thread to end")


async def test_a_database_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    await backend.open()
    await backend.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db")) as database, database:
        database.execute("UPDATE taskflow_meta SET value = '999' WHERE name = 'schema_version'")
    manager = TaskManager(snapshot_backend=backend)
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(SchemaVersionError):
            await manager.startup()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    # The driver's threads have been told to end, and do so by themselves.
    await eventually(lambda: threading.active_count() <= before, "the threads to end")


def test_one_manager_serves_many_lives_on_as_many_event_loops(tmp_path: Path) -> None:
    app = FastAPI()
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", snapshot_interval=0.01)
    TaskAdmin(app, manager, auto_install=True)
    lock = threading.Lock()
    done: list[str] = []

    @manager.task(persist=True)
    async def in_loop(name: str) -> None:
        done.append(name)

    @manager.task(persist=True)
    def in_thread(name: str) -> None:
        with lock:
            done.append(name)

    @manager.task()
    async def light(name: str) -> None:
        done.append(name)

    @app.post("/add/{name}")
    def add(name: str, tasks: ManagedBackgroundTasks) -> None:
        for function in (in_loop, in_thread, light):
            tasks.add_task(function, f"{name} {function.__name__}")
        tasks.add_task(in_loop, f"{name} later", delay=3600)

    before = own_threads()
    lives = 8
    for life in range(lives):
        with TestClient(app) as client:
            assert client.post(f"/add/{life}").status_code == 200
            wait_until(lambda: len(done) == 3 * (life + 1), "the tasks of this life to run")  # noqa: B023
            # What the lives before have left waits here again, and nothing runs twice.
            wait_until(
                lambda: manager.queue_stats()["default"].delayed == life + 1,  # noqa: B023
                "what was delayed to be taken over",
            )
            counts = client.get("/tasks/stats").json()
            assert (counts["success"], counts["pending"]) == (3 * (life + 1), life + 1)
        wait_until(lambda: own_threads() == before, "every thread to end")
    assert len(set(done)) == len(done) == 3 * lives


async def test_two_managers_in_one_process_do_not_share_an_end() -> None:
    first, second = TaskManager(), TaskManager()
    ran = asyncio.Event()

    @second.task()
    async def job() -> None:
        ran.set()

    await first.startup()
    async with running(second):
        await first.shutdown()
        await second.wait(await second.enqueue(job), timeout=5)
    assert ran.is_set()


async def test_a_second_user_of_the_manager_keeps_it_running() -> None:
    manager = TaskManager()
    await manager.startup()
    await manager.startup()
    await manager.shutdown()
    assert manager.engine.state == "running"
    await manager.shutdown()
    assert manager.engine.state == "stopped"
    await manager.shutdown()


async def test_history_is_complete_after_the_shutdown() -> None:
    backend = MemoryBackend()
    manager = TaskManager(snapshot_backend=backend, snapshot_interval=3600)

    @manager.task()
    async def job() -> None: ...

    async with running(manager):
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
    async with running(Life(tmp_path / "tasks.db").manager) as later:
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
    async with running(again.manager) as manager:
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
    async with running(next_life.manager) as manager:
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
    async with running(next_life.manager) as manager:
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
    async with running(TaskManager(snapshot_db=tmp_path / "tasks.db")) as later:
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


async def test_a_manager_can_be_started_again_after_its_end() -> None:
    manager = TaskManager()
    for _ in range(2):
        async with running(manager):
            assert (await finish(manager, await manager.enqueue(lambda: None))).status is TaskStatus.SUCCESS
    await manager.shutdown()
    assert manager.engine.state == "stopped"


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
    assert "gave up 4 tasks" in line
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


SCRIPT = """
import asyncio, sys
from taskflow_otel import TaskManager

manager = TaskManager(snapshot_db=sys.argv[1], lease_seconds=600)
entered = 0

@manager.task(persist=True, requeue_on_interrupt=True)
async def job() -> None:
    global entered
    entered += 1
    if entered == 1:
        await asyncio.sleep(3_600)
    print("ran", flush=True)

async def first() -> None:
    await manager.startup()
    await manager.enqueue(job)
    while not entered:
        await asyncio.sleep(0.01)
    # And no shutdown.

async def second() -> None:
    await manager.startup()
    while entered < 2 or manager.store.list():
        await asyncio.sleep(0.01)
    await manager.shutdown()

{how}
"""
TORN_DOWN = "asyncio.run(first())"
CLOSED = "loop = asyncio.new_event_loop(); loop.run_until_complete(first()); loop.close()"


@pytest.mark.parametrize("how", [TORN_DOWN, CLOSED], ids=["torn down", "closed"])
def test_a_script_that_forgets_the_shutdown_ends_and_a_next_start_up_says_so_and_takes_over(
    tmp_path: Path, how: str
) -> None:
    """The lease is ten minutes: only the manager itself can know that its former life is over."""
    program = SCRIPT.replace("{how}", f"{how}\nprint('over', flush=True)\nasyncio.run(second())")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "tasks.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["over", "ran"]
    assert done.stderr.count("was closed without shutdown()") == 1


def test_a_script_that_forgets_the_shutdown_does_not_hang(tmp_path: Path) -> None:
    program = SCRIPT.replace("{how}", TORN_DOWN)
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "tasks.db")], timeout=60, check=True)
