"""A manager is used from other event loops and threads than its own: what is asked there is done on its own loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask

from taskflow_otel import NotStartedError, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.model.query import TaskQuery
from tests.backends.conftest import FACTORIES
from tests.managers import Gate, finish, started

T = TypeVar("T")
caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def elsewhere(work: Callable[[], Awaitable[T]]) -> T:
    """Await something on an event loop of its own, in a thread of its own."""

    async def main() -> T:
        return await work()

    return await asyncio.to_thread(lambda: asyncio.run(main()))


@pytest.fixture
def manager(tmp_path: Path) -> TaskManager:
    return TaskManager(snapshot_db=tmp_path / "tasks.db")


@pytest.mark.parametrize("persist", [False, True])
async def test_what_another_event_loop_enqueues_runs_on_the_managers_own(manager: TaskManager, persist: bool) -> None:
    ran: list[tuple[int, str]] = []

    @manager.task(persist=persist)
    async def job() -> None:
        ran.append((threading.get_ident(), caller.get()))

    async def enqueue() -> str:
        caller.set("elsewhere")
        return await manager.enqueue(job)

    async with started(manager):
        ids = await asyncio.gather(*(elsewhere(enqueue) for _ in range(5)))
        for task_id in ids:
            assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS
    assert ran == [(threading.get_ident(), "elsewhere")] * 5


async def test_every_question_can_be_asked_on_another_event_loop(manager: TaskManager) -> None:
    gate = Gate()

    @manager.task()
    async def fails() -> None:
        raise ValueError("no")

    waits = manager.task(name="waits")(gate.run)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with started(manager):
        failed = await elsewhere(lambda: manager.enqueue(fails))
        assert (await elsewhere(lambda: manager.wait(failed, 20))).status is TaskStatus.FAILED
        assert (await elsewhere(lambda: manager.get(failed))).status is TaskStatus.FAILED
        again = await elsewhere(lambda: manager.retry(failed))
        assert (await elsewhere(lambda: manager.wait(again.task_id, 20))).retry_of == failed
        running = await elsewhere(lambda: manager.enqueue(waits))
        await gate.entered.wait()
        await elsewhere(lambda: manager.cancel(running))
        assert (await finish(manager, running)).status is TaskStatus.CANCELLED
        assert len((await elsewhere(lambda: manager.engine.lookup.page(TaskQuery()))).records) == 3
        await elsewhere(lambda: manager.schedule_once(fails, run_at=tomorrow, run_key="k"))
        assert [run.run_key for run in await elsewhere(manager.list_scheduled)] == ["k"]
        assert await elsewhere(lambda: manager.cancel_scheduled("k"))
        await elsewhere(lambda: manager.update_queue_config("default", concurrency=3))
        assert manager.queue_stats()["default"].concurrency == 3
        assert await elsewhere(lambda: manager.engine.cleaner.delete(datetime.now(UTC))) == 3


async def test_a_shutdown_that_is_asked_for_on_another_event_loop_drains(manager: TaskManager) -> None:
    done: list[int] = []

    @manager.task()
    async def slow() -> None:
        await asyncio.sleep(0.05)
        done.append(1)

    await manager.startup()
    # A second user of the same manager, on a loop of its own.
    await elsewhere(manager.startup)
    await manager.enqueue(slow)
    await manager.shutdown()
    assert manager.engine.state == "running"
    await elsewhere(manager.shutdown)
    assert (done, manager.engine.state) == ([1], "stopped")


@pytest.mark.parametrize("closed", [False, True], ids=["not running", "closed"])
def test_a_manager_whose_event_loop_does_not_run_says_so_at_once(closed: bool) -> None:
    manager = TaskManager()

    async def job() -> None: ...

    home = asyncio.new_event_loop()
    home.run_until_complete(manager.startup())
    if closed:
        home.run_until_complete(asyncio.sleep(0))
        for task in asyncio.all_tasks(home):
            task.cancel()
        home.run_until_complete(asyncio.sleep(0))
        home.close()
    for ask in (lambda: manager.enqueue(job), lambda: manager.wait("x"), lambda: manager.cancel("x")):
        with pytest.raises(NotStartedError, match=r"another event loop, which is (not running|closed)"):
            asyncio.run(_await(ask))
    if closed:
        asyncio.run(manager.shutdown())
        assert manager.engine.state == "abandoned"
    else:
        home.run_until_complete(manager.shutdown())
        home.close()


async def _await(ask: Callable[[], Awaitable[Any]]) -> None:
    await ask()


@pytest.mark.parametrize("kind", ["persisted", "plain", "eager", "undecorated", "appended"])
async def test_a_request_that_is_served_on_another_event_loop_has_its_tasks_run(
    manager: TaskManager, kind: str
) -> None:
    app = FastAPI()
    manager.install(app)
    ran: list[str] = []

    def note() -> None:
        ran.append(kind)

    declared = manager.task(name="declared", persist=kind == "persisted", eager=kind == "eager")(lambda: note())

    @app.post("/")
    async def route(tasks: BackgroundTasks) -> None:
        match kind:
            case "undecorated":
                tasks.add_task(note)
            case "appended":
                tasks.tasks.append(BackgroundTask(note))
            case _:
                tasks.add_task(declared)

    async with started(manager):
        # Outside `with`, a test client makes an event loop for each request.
        answer = await asyncio.to_thread(lambda: TestClient(app).post("/"))
        assert answer.status_code == 200
        for task in manager.store.list():
            await finish(manager, task.task_id)
        assert ran == [kind]


PAGES = ("", "/stats", "/metrics", "/health", "/queues", "/schedules", "/instances", "/overview", "/failures")


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mysql", "redis"])
async def test_every_page_can_be_asked_for_on_another_event_loop(request: pytest.FixtureRequest, kind: str) -> None:
    """Connections to a database belong to the event loop that they were made on."""
    app, manager = FastAPI(), TaskManager(snapshot_backend=FACTORIES[kind](request)())
    TaskAdmin(app, manager)

    @manager.task(persist=True)
    async def fails() -> None:
        raise ValueError("no")

    def ask() -> dict[str, int]:
        client = TestClient(app)
        answers = {page: client.get(f"/tasks{page}").status_code for page in PAGES}
        answers["retry"] = client.post(f"/tasks/{task_id}/retry").status_code
        answers["delete"] = client.delete("/tasks/history").status_code
        return answers

    async with started(manager):
        task_id = await manager.enqueue(fails)
        await finish(manager, task_id)
        assert await asyncio.to_thread(ask) == {**dict.fromkeys(PAGES, 200), "retry": 202, "delete": 200}
