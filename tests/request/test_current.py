"""A request that is over is freed at once, whatever asked it for tasks, and code that it started can still add some."""

from __future__ import annotations

import asyncio
import contextlib
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
