"""The start and the stop of an engine: nothing remains after a stop, and the next start continues the work."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel import (
    ManagedBackgroundTasks,
    TaskAdmin,
    TaskManager,
    TaskObserver,
    TaskStatus,
)
from taskflow_otel.backends import MemoryBackend, SqliteBackend
from taskflow_otel.errors import BackendError, SchemaVersionError
from tests.managers import finish, started
from tests.waiting import eventually, wait_until

with warnings.catch_warnings():
    # Starlette prefers another client library than the one that is installed.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


def own_threads() -> set[str]:
    """Names of the threads of this library that are alive."""
    return {thread.name for thread in threading.enumerate() if "taskflow" in thread.name}


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
    async with started(manager):
        ids = [await manager.enqueue(function) for function in (in_thread, in_loop) for _ in range(20)]
        for task_id in ids:
            await manager.wait(task_id, timeout=60)
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
    async with started(second):
        await first.shutdown()
        await second.wait(await second.enqueue(job), timeout=30)
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


async def test_a_manager_can_be_started_again_after_its_end() -> None:
    manager = TaskManager()
    for _ in range(2):
        async with started(manager):
            assert (await finish(manager, await manager.enqueue(lambda: None))).status is TaskStatus.SUCCESS
    await manager.shutdown()
    assert manager.engine.state == "stopped"


SCRIPT = """
import asyncio, sys
from taskflow_otel import TaskManager
from tests.chaos.backends import make_backend

manager = TaskManager(snapshot_backend=make_backend(*sys.argv[1:]), lease_seconds=600)
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


STORAGES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "sqlite": lambda request: str(request.getfixturevalue("tmp_path") / "tasks.db"),
    "postgres": lambda request: request.getfixturevalue("postgres_url"),
    "pgbouncer": lambda request: request.getfixturevalue("pgbouncer_url"),
    "mysql": lambda request: request.getfixturevalue("mariadb_url"),
    "redis": lambda request: request.getfixturevalue("redis_url"),
}


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The name of a backend, and the address of an empty storage that several processes share."""
    kind: str = request.param
    return kind, STORAGES[kind](request)


def run(program: str, storage: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, with these arguments."""
    return subprocess.run(
        [sys.executable, "-c", program, *storage],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.parametrize("how", [TORN_DOWN, CLOSED], ids=["torn down", "closed"])
def test_a_script_that_forgets_the_shutdown_ends_and_a_next_start_up_says_so_and_takes_over(
    storage: tuple[str, str], how: str
) -> None:
    """The lease is ten minutes: only the manager itself can know that its former life is over."""
    done = run(SCRIPT.replace("{how}", f"{how}\nprint('over', flush=True)\nasyncio.run(second())"), storage)
    assert done.stdout.split() == ["over", "ran"]
    assert done.stderr.count("was closed without shutdown()") == 1


def test_a_script_that_forgets_the_shutdown_does_not_hang(storage: tuple[str, str]) -> None:
    run(SCRIPT.replace("{how}", TORN_DOWN), storage)
