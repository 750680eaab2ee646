"""A request that is over is freed at once, whatever asked it for tasks, and code that it started can still add some."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import weakref
from collections.abc import Iterator

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException

from taskflow_otel import ManagedBackgroundTasks, TaskManager
from tests.asgi import Exchange, running


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Cycles stay."""
    was_on = gc.isenabled()
    gc.disable()
    yield
    if was_on:
        gc.enable()


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("installed", [True, False])
async def test_no_request_waits_for_the_garbage_collector(installed: bool) -> None:
    app, manager = FastAPI(), TaskManager()
    theirs = Depends(manager.get_tasks)

    @manager.task()
    async def nothing() -> None: ...

    @app.post("/plain")
    async def plain() -> None: ...

    @app.post("/none")
    async def none(tasks: BackgroundTasks) -> None: ...

    @app.post("/native")
    async def native(tasks: BackgroundTasks) -> None:
        tasks.add_task(nothing)

    @app.post("/managed")
    async def managed(tasks: ManagedBackgroundTasks = theirs) -> None:
        tasks.add_task(nothing)

    @app.post("/refused")
    async def refused(tasks: ManagedBackgroundTasks = theirs) -> None:
        tasks.add_task(nothing)
        raise HTTPException(418)

    paths = {"/plain": 200, "/none": 200, "/managed": 200, "/refused": 418, "/unknown": 404}
    async with contextlib.AsyncExitStack() as ends:
        if installed:
            manager.install(app)
            paths["/native"] = 200
        else:
            await manager.startup()
            ends.push_async_callback(manager.shutdown)
        await ends.enter_async_context(running(app))
        for path, status in paths.items():
            exchange = await Exchange(app, path).run()
            assert exchange.status == status, path
            over = weakref.ref(exchange)
            del exchange
            assert over() is None, path


def _two_managers(app: FastAPI, how: str) -> tuple[TaskManager, TaskManager]:
    """Two managers of one application: both, one or none of them with a middleware."""
    one, other = TaskManager(), TaskManager()
    if how != "neither":
        one.install(app)
    if how == "both":
        other.init_app(app)
    return one, other


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("how", ["both", "one", "neither"])
async def test_a_request_of_two_managers_does_not_wait_for_the_garbage_collector(how: str) -> None:
    app = FastAPI()
    managers = _two_managers(app, how)
    one, other = (Depends(manager.get_tasks) for manager in managers)
    over, left = asyncio.Event(), []
    ran: list[TaskManager] = []
    tasks = [manager.task(name="note")(functools.partial(ran.append, manager)) for manager in managers]

    @app.post("/plain")
    async def plain() -> None: ...

    @app.post("/two")
    async def two(first: ManagedBackgroundTasks = one, second: ManagedBackgroundTasks = other) -> None:
        first.add_task(tasks[0])
        second.add_task(tasks[1])

    async def later() -> list[str]:
        await over.wait()
        return [ManagedBackgroundTasks(of).add_task(task) for of, task in zip(managers, tasks, strict=True)]

    @app.post("/left")
    async def leaves(
        first: ManagedBackgroundTasks = one, second: ManagedBackgroundTasks = other, fails: bool = False
    ) -> None:
        left.append(asyncio.create_task(later()))
        if fails:
            raise HTTPException(418)

    async with contextlib.AsyncExitStack() as ends:
        for manager in managers if how == "neither" else managers[1:] if how == "one" else ():
            await manager.startup()
            ends.push_async_callback(manager.shutdown)
        await ends.enter_async_context(running(app))
        for path in ("/plain", "/two"):
            exchange = await Exchange(app, path).run()
            assert exchange.status == 200
            known = weakref.ref(exchange)
            del exchange
            assert known() is None, path
        await Exchange(app, "/left").run()
        await Exchange(app, "/left?fails=true").run()
        over.set()
        for number, manager in enumerate(managers):
            kept, withdrawn = [(await task)[number] for task in left]
            assert (await manager.wait(kept)).status == "success"
            assert (await manager.wait(withdrawn)).reason == "request_failed"
    assert sorted(map(managers.index, ran)) == [0, 0, 1, 1]


async def test_code_that_a_request_has_left_behind_adds_tasks_when_it_is_over() -> None:
    app, manager = FastAPI(), TaskManager()
    manager.install(app)
    over, left = asyncio.Event(), []
    ran = 0

    @manager.task()
    async def count() -> None:
        nonlocal ran
        ran += 1

    async def later() -> str:
        await over.wait()
        return ManagedBackgroundTasks(manager).add_task(count)

    @app.post("/")
    async def route(fails: bool = False) -> None:
        left.append(asyncio.create_task(later()))
        if fails:
            raise RuntimeError("the request has failed")

    async with running(app):
        await Exchange(app, "/").run()
        await Exchange(app, "/?fails=true").run()
        over.set()
        kept, withdrawn = await asyncio.gather(*left)
        assert (await manager.wait(kept)).status == "success"
        assert (await manager.wait(withdrawn)).reason == "request_failed"
    assert ran == 1
