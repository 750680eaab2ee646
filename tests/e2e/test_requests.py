"""A request and its tasks: who runs, and when, in every kind of route and behind every kind of middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.background import BackgroundTask
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from taskflow_otel import ManagedBackgroundTasks, TaskStatus
from tests.asgi import converse, post, running
from tests.e2e.shop import WAIT, HoldBack, PassThrough, Shop
from tests.waiting import eventually


def answering_routes(shop: Shop) -> None:
    app = shop.app

    @app.post("/async")
    async def in_the_loop(tasks: ManagedBackgroundTasks, task: str) -> str:
        return tasks.add_task(getattr(shop, task))

    @app.post("/sync")
    def in_a_thread(tasks: ManagedBackgroundTasks, task: str) -> str:
        return tasks.add_task(getattr(shop, task))

    @app.post("/response")
    async def own_response(tasks: ManagedBackgroundTasks, task: str) -> Response:
        return JSONResponse(tasks.add_task(getattr(shop, task)))

    @app.post("/streamed")
    async def streamed(tasks: ManagedBackgroundTasks, task: str) -> StreamingResponse:
        task_id = tasks.add_task(getattr(shop, task))

        async def chunks() -> AsyncIterator[bytes]:
            yield b'"'
            yield task_id.encode()
            yield b'"'

        return StreamingResponse(chunks())

    @app.post("/late")
    async def added_while_streaming(tasks: ManagedBackgroundTasks, task: str) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'"'
            yield tasks.add_task(getattr(shop, task)).encode()
            yield b'"'

        return StreamingResponse(chunks())

    @app.post("/nested")
    async def through_a_dependency(task_id: Annotated[str, Depends(adds)]) -> str:
        return task_id


def adds(tasks: ManagedBackgroundTasks, request: Request, task: str) -> str:
    return tasks.add_task(getattr(request.app.state.shop, task))


@pytest.mark.parametrize("task", ["kept", "passing", "threaded"])
@pytest.mark.parametrize("route", ["async", "sync", "response", "streamed", "late", "nested"])
async def test_a_task_runs_once_and_after_the_last_byte(route: str, task: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    await ask_and_wait(shop, shop.mount(), f"/{route}?task={task}")
    assert shop.log == ["first byte", "last byte", "task"]


@pytest.mark.parametrize("place", ["before", "after", "both"])
@pytest.mark.parametrize("middleware", [PassThrough, HoldBack, GZipMiddleware])
@pytest.mark.parametrize("task", ["kept", "passing"])
@pytest.mark.parametrize("route", ["sync", "streamed"])
async def test_middlewares_around_a_route_change_nothing_of_that(
    route: str, task: str, middleware: Any, place: str, tmp_path: Path
) -> None:
    shop = Shop(tmp_path / "tasks.db")
    if place in {"before", "both"}:
        shop.app.add_middleware(middleware)
    shop.mount()
    if place in {"after", "both"}:
        shop.app.add_middleware(middleware)
    await ask_and_wait(shop, shop.app, f"/{route}?task={task}")
    assert shop.log == ["first byte", "last byte", "task"]


@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_request_that_fails_in_a_middleware_after_the_route_runs_no_task(place: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    if place == "before":
        shop.app.add_middleware(HoldBack, fails=True)
    shop.mount()
    if place == "after":
        shop.app.add_middleware(HoldBack, fails=True)
    async with running(shop.app):
        assert (await post(shop.app, "/")).status == 500
        assert await shop.ended() is TaskStatus.CANCELLED
    assert shop.log == []


async def ask_and_wait(shop: Shop, app: FastAPI, path: str) -> None:
    """Ask a route that adds one task and answers with its id, and wait until that has succeeded."""
    app.state.shop = shop
    answering_routes(shop)
    async with running(app):
        answer = await post(app, path, log=shop.log)
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS


@pytest.mark.parametrize("middleware", [False, True])
async def test_a_request_is_not_held_open_by_its_tasks(middleware: bool, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    answering_routes(shop)
    shop.mount()
    if middleware:
        shop.app.add_middleware(PassThrough)
    async with running(shop.app):
        shop.gate.clear()
        answer = await post(shop.app, "/async?task=kept")
        await eventually(lambda: shop.manager.store.list()[0].status is TaskStatus.RUNNING, "the start")
        assert shop.log == []
        shop.gate.set()
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS


async def test_several_tasks_of_one_request_run_at_the_same_time(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    meeting = asyncio.Barrier(3)

    @shop.manager.task(persist=True)
    async def meet() -> None:
        await meeting.wait()

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> list[str]:
        return [tasks.add_task(meet) for _ in range(3)]

    async with running(shop.mount()):
        answer = await post(shop.app, "/")
        assert {await shop.ended(task_id) for task_id in answer.json} == {TaskStatus.SUCCESS}


async def test_a_response_with_a_background_of_its_own_keeps_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> Response:
        return JSONResponse(tasks.add_task(shop.kept), background=BackgroundTask(shop.log.append, "its own"))

    async with running(shop.mount()):
        answer = await post(shop.app, "/")
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS
    assert sorted(shop.log) == ["its own", "task"]


async def test_an_eager_task_starts_before_the_response(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    ran = asyncio.Event()

    @shop.manager.task(eager=True)
    async def early() -> None:
        ran.set()

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        task_id = tasks.add_task(early)
        await asyncio.wait_for(ran.wait(), WAIT)
        return task_id

    async with running(shop.mount()):
        answer = await post(shop.app, "/")
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS


async def test_a_web_socket_route_starts_each_task_when_it_is_added(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.websocket("/ws")
    async def talk(socket: WebSocket, tasks: ManagedBackgroundTasks) -> None:
        await socket.accept()
        async for what in socket.iter_text():
            record = await shop.manager.wait(tasks.add_task(shop.kept, what), WAIT)
            await socket.send_text(record.status)

    async with running(shop.mount()):
        sent = await converse(shop.app, "/ws", ["one", "two"])
    assert sent == ["success", "success"]
    assert shop.log == ["one", "two"]
