"""A manager belongs to the application it was mounted on, and changes nothing for any other of the same process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import fastapi
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException

from taskflow_otel import ManagedBackgroundTasks, NotStartedError, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.errors import BackendUnavailableError
from tests.asgi import get, post, running

WAIT = 60.0


class Log(list[str]):
    """What happened, in order."""


def native_app(log: Log) -> FastAPI:
    """An application that knows nothing of this library; it answers with the class that FastAPI gave it."""
    app = FastAPI()

    @app.post("/")
    async def route(tasks: BackgroundTasks) -> str:
        assert tasks.add_task(log.append, "native task") is None  # type: ignore[func-returns-value]  # native: nothing
        return f"{type(tasks).__module__}.{type(tasks).__qualname__}"

    return app


def managed_app(log: Log, manager: TaskManager, *, auto_install: bool = True) -> FastAPI:
    app = FastAPI()

    @app.post("/")
    async def route(tasks: BackgroundTasks) -> list[str | None]:
        task_id: str | None = tasks.add_task(log.append, "managed task")  # type: ignore[func-returns-value]  # an id
        return [type(tasks).__qualname__, task_id]

    TaskAdmin(app, manager, auto_install=auto_install)
    return app


async def test_of_two_applications_only_the_installed_one_changes() -> None:
    log, manager = Log(), TaskManager()
    installed, other = managed_app(log, manager), native_app(log)
    async with running(installed), running(other):
        answer = await post(installed, "/", log=log)
        assert answer.json[0] == "ManagedBackgroundTasks"
        assert (await manager.wait(answer.json[1], WAIT)).status is TaskStatus.SUCCESS
        assert log == ["first byte", "last byte", "managed task"]

        log.clear()
        native = await post(other, "/", log=log)
        assert native.json == "fastapi.background.BackgroundTasks"
        # Run by the response itself, as FastAPI does it: before the application returns.
        assert log == ["first byte", "last byte", "native task"]
        assert manager.store.list() == []


async def test_a_native_application_inside_a_request_of_an_installed_one_stays_native() -> None:
    log, manager = Log(), TaskManager()
    app, inner = managed_app(log, manager), native_app(log)
    app.mount("/inner", inner)
    async with running(app):
        answer = await post(app, "/inner/")
        assert answer.json == "fastapi.background.BackgroundTasks"
        assert log == ["native task"]


async def test_an_installed_application_mounted_in_a_native_one_is_managed() -> None:
    log, manager = Log(), TaskManager()
    inner, outer = managed_app(log, manager), native_app(log)
    outer.mount("/inner", inner)
    async with running(outer), running(inner):
        answer = await post(outer, "/inner/")
        assert answer.json[0] == "ManagedBackgroundTasks"
        assert (await manager.wait(answer.json[1], WAIT)).status is TaskStatus.SUCCESS
        log.clear()
        assert (await post(outer, "/")).json == "fastapi.background.BackgroundTasks"
        assert log == ["native task"]


async def test_two_managers_on_two_applications_each_get_their_own_tasks() -> None:
    log, first, second = Log(), TaskManager(), TaskManager()
    app, other = managed_app(log, first), managed_app(log, second)
    async with running(app), running(other):
        here, there = (await post(app, "/")).json[1], (await post(other, "/")).json[1]
        await first.wait(here, WAIT)
        await second.wait(there, WAIT)
        assert first.store.get(there) is None
        assert second.store.get(here) is None


async def test_mounting_without_auto_install_leaves_the_native_annotation_native() -> None:
    log, manager = Log(), TaskManager()
    app = managed_app(log, manager, auto_install=False)
    async with running(app):
        answer = await post(app, "/")
        assert answer.json == ["BackgroundTasks", None]
        assert log == ["managed task"]


async def test_the_class_that_fastapi_exports_is_never_replaced() -> None:
    before = fastapi.BackgroundTasks
    TaskAdmin(FastAPI(), TaskManager(), auto_install=True)
    assert fastapi.BackgroundTasks is before


async def test_the_manager_runs_while_the_lifespan_of_the_application_starts_and_ends() -> None:
    log, manager = Log(), TaskManager()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        await manager.wait(await manager.enqueue(log.append, "at start"), WAIT)
        yield {"from": "the application"}
        await manager.wait(await manager.enqueue(log.append, "at the end"), WAIT)

    app = FastAPI(lifespan=lifespan)
    TaskAdmin(app, manager, auto_install=True)
    async with app.router.lifespan_context(app) as state:
        assert state == {"from": "the application"}
        assert log == ["at start"]
    assert log == ["at start", "at the end"]
    with pytest.raises(NotStartedError):
        await manager.enqueue(log.append, "after")


async def test_an_application_without_a_lifespan_gets_one() -> None:
    app, manager = FastAPI(), TaskManager()
    manager.init_app(app)
    async with running(app):
        assert manager.engine.state == "running"
    assert manager.engine.state == "stopped"


async def test_one_manager_on_two_applications_runs_until_the_last_has_ended() -> None:
    manager = TaskManager()
    first, second = FastAPI(), FastAPI()
    manager.init_app(first)
    manager.init_app(second)
    async with running(first):
        async with running(second):
            assert manager.engine.state == "running"
        assert manager.engine.state == "running"
    assert manager.engine.state == "stopped"


def by_dependency(log: Log, manager: TaskManager, *, mounted: bool) -> FastAPI:
    """An application whose routes ask for `Depends(get_tasks)`, started by hand unless the manager is mounted."""

    @contextlib.asynccontextmanager
    async def by_hand(app: FastAPI) -> AsyncIterator[None]:
        await manager.startup()
        yield
        await manager.shutdown()

    app = FastAPI(lifespan=None if mounted else by_hand)
    if mounted:
        manager.init_app(app)

    @manager.task(persist=True)
    async def kept() -> None:
        log.append("task")

    @app.post("/async")
    async def in_the_loop(tasks: ManagedBackgroundTasks = Depends(manager.get_tasks)) -> str:
        return tasks.add_task(kept)

    @app.post("/sync")
    def in_a_thread(tasks: ManagedBackgroundTasks = Depends(manager.get_tasks)) -> str:
        return tasks.add_task(kept)

    @app.post("/fails")
    async def fails(tasks: ManagedBackgroundTasks = Depends(manager.get_tasks)) -> None:
        log.append(tasks.add_task(kept))
        raise HTTPException(409, "not now")

    return app


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "started by hand"])
@pytest.mark.parametrize("route", ["async", "sync"])
async def test_a_dependency_gives_the_tasks_without_install(route: str, mounted: bool, tmp_path: Path) -> None:
    log, manager = Log(), TaskManager(snapshot_db=tmp_path / "tasks.db")
    app = by_dependency(log, manager, mounted=mounted)
    async with running(app):
        answer = await post(app, f"/{route}", log=log)
        assert (await manager.wait(answer.json, WAIT)).status is TaskStatus.SUCCESS
    assert log == ["first byte", "last byte", "task"]


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "started by hand"])
async def test_the_tasks_of_a_dependency_do_not_run_when_the_request_fails(mounted: bool, tmp_path: Path) -> None:
    log, manager = Log(), TaskManager(snapshot_db=tmp_path / "tasks.db")
    app = by_dependency(log, manager, mounted=mounted)
    async with running(app):
        assert (await post(app, "/fails")).status == 409
        record = await manager.wait(log.pop(), WAIT)
        assert (record.status, record.reason) == (TaskStatus.CANCELLED, "request_failed")
    assert log == []


class Broken(SqliteBackend):
    """Takes heartbeats, and no task until it is repaired."""

    broken = True

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        if not self.broken:
            return await super().apply(changes)
        raise BackendUnavailableError("the database is away")


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "started by hand"])
@pytest.mark.parametrize("route", ["async", "sync"])
async def test_a_dependency_answers_503_when_its_tasks_cannot_be_stored(
    route: str, mounted: bool, tmp_path: Path
) -> None:
    log, backend = Log(), Broken(tmp_path / "tasks.db")
    manager = TaskManager(snapshot_backend=backend, commit_timeout=0.1)
    app = by_dependency(log, manager, mounted=mounted)
    async with running(app):
        answer = await post(app, f"/{route}")
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "could not be stored" in answer.json["detail"]
        backend.broken = False
    assert log == []


async def test_the_routes_of_the_admin_answer_under_its_path() -> None:
    app, manager = FastAPI(), TaskManager()
    TaskAdmin(app, manager, path="/jobs")
    async with running(app):
        await manager.wait(await manager.enqueue(print, end=""), WAIT)
        tasks = await get(app, "/jobs")
        assert [task["func_name"] for task in tasks.json] == ["print"]
        assert (await get(app, "/tasks")).status == 404
