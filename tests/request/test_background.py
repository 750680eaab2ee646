"""Undecorated functions run as natively; what user code makes by hand leads to its declaration; and what is refused."""

import asyncio
import inspect
import io
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_overloads, get_type_hints

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Form, UploadFile
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask
from starlette.background import BackgroundTasks as StarletteTasks
from starlette.responses import JSONResponse, Response

from taskflow_otel import InMemoryLogger, ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.model.enqueue import EnqueueOptions
from taskflow_otel.model.query import TaskQuery
from tests.asgi import post, running
from tests.waiting import eventually

WAIT = 60.0


def native(log: list[str]) -> FastAPI:
    """The application without this library: what it does is what must be done with it."""
    app = FastAPI()

    async def session() -> AsyncIterator[None]:
        log.append("open")
        yield
        log.append("closed")

    async def slow(what: str) -> None:
        for _ in range(30):
            await asyncio.sleep(0)
        log.append(what)

    def in_a_thread(what: str) -> None:
        assert threading.current_thread() is not threading.main_thread()
        log.append(what)

    async def reads(file: UploadFile) -> None:
        log.append((await file.read()).decode())

    def fails() -> None:
        log.append("fails")
        raise LookupError("as natively")

    @app.post("/", dependencies=[Depends(session)])
    async def route(tasks: BackgroundTasks) -> None:
        tasks.add_task(slow, "first")
        tasks.add_task(in_a_thread, "second")
        tasks.add_task(slow, "third")

    @app.post("/sync", dependencies=[Depends(session)])
    def sync_route(tasks: BackgroundTasks) -> None:
        tasks.add_task(slow, "first")
        tasks.add_task(in_a_thread, "second")

    @app.post("/upload")
    async def upload(file: UploadFile, tasks: BackgroundTasks, name: str = Form()) -> None:
        tasks.add_task(reads, file)

    @app.post("/fails", dependencies=[Depends(session)])
    async def failing(tasks: BackgroundTasks) -> None:
        tasks.add_task(slow, "first")
        tasks.add_task(fails)
        tasks.add_task(slow, "never")
        tasks.add_task(slow, "never either")

    @app.post("/grows")
    async def grows(tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: tasks.add_task(log.append, "added by the first"))
        tasks.add_task(log.append, "second")

    @app.post("/by_hand")
    async def by_hand(tasks: BackgroundTasks) -> None:
        tasks.add_task(slow, "first")
        tasks.tasks.append(BackgroundTask(slow, "appended"))
        tasks.add_task(slow, "third")

    return app


@pytest.mark.parametrize("path", ["/", "/sync", "/upload", "/fails", "/grows", "/by_hand"])
def test_undecorated_functions_do_what_they_do_natively(path: str) -> None:
    def logged(app: FastAPI, log: list[str]) -> list[str]:
        with TestClient(app) as client:
            files = {"file": io.BytesIO(b"uploaded")} if path == "/upload" else None
            data = {"name": "x"} if path == "/upload" else None
            try:
                log.append(str(client.post(path, files=files, data=data).status_code))
            except LookupError as exc:
                log.append(repr(exc))
            # Here, and not when the application has ended: the client waits for them.
            return list(log)

    log: list[str] = []
    natively = logged(native(log), log)
    with_us: list[str] = []
    app, manager = native(with_us), TaskManager()
    TaskAdmin(app, manager, auto_install=True)
    assert logged(app, with_us) == natively
    assert len(natively) > 1


async def test_after_one_that_failed_the_rest_of_the_undecorated_ones_is_cancelled_and_says_why() -> None:
    log: list[str] = []
    observer = InMemoryLogger()
    app, manager = native(log), TaskManager(loggers=[observer])
    TaskAdmin(app, manager, auto_install=True)
    async with running(app):
        answer = await post(app, "/fails")
        assert isinstance(answer.error, LookupError)
        await eventually(lambda: manager.store.list() == [], "the end of all")
        records = (await manager.engine.lookup.page(TaskQuery())).records
        by_status = sorted(((str(record.status), record.reason) for record in records), key=str)
        assert by_status == [
            ("cancelled", "earlier_failed"),
            ("cancelled", "earlier_failed"),
            ("failed", None),
            ("success", None),
        ]
        assert not any(record.persisted for record in records)
    assert len(manager.store.list()) == 0


async def test_a_declared_task_runs_although_an_undecorated_function_of_its_request_failed(tmp_path: Path) -> None:
    manager, app, log = TaskManager(snapshot_db=tmp_path / "tasks.db"), FastAPI(), list[str]()

    @manager.task(persist=True)
    async def kept() -> None:
        log.append("kept")

    def fails() -> None:
        raise LookupError

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> None:
        tasks.add_task(fails)
        ids.append(tasks.add_task(kept))

    ids: list[str] = []
    TaskAdmin(app, manager)
    async with running(app):
        answer = await post(app, "/")
        assert isinstance(answer.error, LookupError)
        assert (await manager.wait(ids[0], WAIT)).status is TaskStatus.SUCCESS
    assert log == ["kept"]


@pytest.mark.parametrize("mounted", [True, False])
async def test_undecorated_functions_run_inside_the_request_by_dependency_too(mounted: bool) -> None:
    manager, log = TaskManager(), list[str]()
    app = FastAPI()

    async def session() -> AsyncIterator[None]:
        yield
        log.append("closed")

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks = Depends(manager.get_tasks), _: None = Depends(session)) -> Response:
        tasks.add_task(log.append, "first")
        tasks.add_task(log.append, "second")
        return JSONResponse(None, background=BackgroundTask(log.append, "its own") if own else None)

    own = False
    if mounted:
        manager.init_app(app)
    else:
        await manager.startup()
    async with running(app):
        await post(app, "/", log=log)
        assert log == ["first byte", "last byte", "first", "second", "closed"]
        own = True
        log.clear()
        await post(app, "/", log=log)
        assert log == ["first byte", "last byte", "its own", "first", "second", "closed"]
    if not mounted:
        await manager.shutdown()


def a_task(func: Callable[..., Any], *args: Any) -> BackgroundTask:
    return BackgroundTask(func, *args)


def starlette_tasks(func: Callable[..., Any], *args: Any) -> BackgroundTask:
    return StarletteTasks([BackgroundTask(func, *args)])


def fastapi_tasks(func: Callable[..., Any], *args: Any) -> BackgroundTask:
    tasks = BackgroundTasks()
    tasks.add_task(func, *args)
    return tasks


@pytest.mark.parametrize("make", [a_task, starlette_tasks, fastapi_tasks])
@pytest.mark.parametrize("injected", [True, False])
@pytest.mark.parametrize("fails", [True, False])
async def test_a_declared_task_in_background_tasks_made_by_hand_is_managed(
    make: Callable[..., BackgroundTask], injected: bool, fails: bool, tmp_path: Path
) -> None:
    manager, app, log = TaskManager(snapshot_db=tmp_path / "tasks.db"), FastAPI(), list[str]()

    @manager.task(persist=True)
    async def kept(what: str) -> None:
        log.append(what)

    async def session() -> AsyncIterator[None]:
        yield
        log.append("committed")
        if fails:
            raise RuntimeError("the commit failed")

    def respond() -> Response:
        return JSONResponse(None, background=make(kept, "task"))

    @app.post("/injected", dependencies=[Depends(session)])
    async def with_tasks(tasks: ManagedBackgroundTasks) -> Response:
        return respond()

    @app.post("/plain", dependencies=[Depends(session)])
    async def plain() -> Response:
        return respond()

    TaskAdmin(app, manager)
    async with running(app):
        await post(app, "/injected" if injected else "/plain", log=log)
        (record,) = (await manager.engine.lookup.page(TaskQuery())).records
        ended = await manager.wait(record.task_id, WAIT)
    assert record.persisted
    assert ended.status is (TaskStatus.CANCELLED if fails else TaskStatus.SUCCESS)
    assert log == ["first byte", "last byte", "committed"] + ([] if fails else ["task"])


async def test_a_declared_task_appended_by_hand_to_managed_tasks_is_managed(tmp_path: Path) -> None:
    manager, app, log = TaskManager(snapshot_db=tmp_path / "tasks.db"), FastAPI(), list[str]()

    @manager.task(persist=True)
    async def kept() -> None:
        log.append("task")

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> None:
        tasks.tasks.append(BackgroundTask(kept))
        tasks.tasks.append(BackgroundTask(log.append, "native"))

    TaskAdmin(app, manager)
    async with running(app):
        await post(app, "/")
        (record,) = (await manager.engine.lookup.page(TaskQuery())).records
        assert record.persisted
        assert (await manager.wait(record.task_id, WAIT)).status is TaskStatus.SUCCESS
    assert sorted(log) == ["native", "task"]


def test_each_option_of_add_task_has_a_signature_in_which_it_is_required_and_those_after_it_are_not() -> None:
    hints = get_type_hints(EnqueueOptions)
    names = list(hints)
    *overloads, without = get_overloads(ManagedBackgroundTasks.add_task)
    assert len(overloads) == len(names)
    for at, overload in enumerate(overloads):
        options = [
            one for one in inspect.signature(overload).parameters.values() if one.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        assert [one.name for one in options] == names[at:]
        assert [one.name for one in options if one.default is inspect.Parameter.empty] == [names[at]]
        given = get_type_hints(overload)
        assert {name: given[name] for name in names[at:]} == {name: hints[name] for name in names[at:]}
    assert not set(names) & set(inspect.signature(without).parameters)


def test_every_option_of_add_task_is_explained() -> None:
    assert ManagedBackgroundTasks.add_task.__doc__ is not None
    names = [field.name for field in fields(EnqueueOptions)]
    assert [name for name in names if f"`{name}`" not in ManagedBackgroundTasks.add_task.__doc__] == []
