"""Real connections: clients that go away in the middle, and those that stay for another request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from taskflow_otel import ManagedBackgroundTasks, TaskStatus
from tests.e2e.shop import WAIT, PassThrough, Shop
from tests.servers import free_port
from tests.waiting import eventually


@contextlib.asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[int]:
    """The application behind a real uvicorn on this event loop; yields the port."""
    config = uvicorn.Config(app, port=free_port(), log_level="error", ws="none", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or serving.done(), "uvicorn to start")
    try:
        yield config.port
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("task", ["kept", "passing"])
async def test_a_client_that_disconnects_in_the_middle_of_the_response_changes_nothing(
    task: str, middleware: bool, tmp_path: Path
) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> StreamingResponse:
        shop.ids.append(tasks.add_task(getattr(shop, task)))

        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield await shop.chunks.get()

        return StreamingResponse(chunks())

    shop.mount()
    if middleware:
        shop.app.add_middleware(PassThrough)
    async with served(shop.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        shop.chunks.put_nowait(b"x" * 10)
        await reader.readuntil(b"x" * 10)
        assert await shop.status() is TaskStatus.PENDING
        shop.log.append("client gone")
        # A reset rather than an orderly end, as from a telephone that lost its network.
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        for _ in range(100):
            shop.chunks.put_nowait(b"y" * 65_536)
        assert await shop.ended() is TaskStatus.SUCCESS
    assert shop.log == ["client gone", "task"]


async def test_a_client_that_left_before_the_response_still_gets_its_tasks_run(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    entered, leave = asyncio.Event(), asyncio.Event()

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        task_id = shop.add(tasks)
        entered.set()
        await leave.wait()
        return task_id

    async with served(shop.mount()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(entered.wait(), WAIT)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        leave.set()
        assert await shop.ended() is TaskStatus.SUCCESS
    assert shop.log == ["task"]


async def test_the_next_request_on_the_same_connection_does_not_wait_for_the_tasks_of_the_last(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    shop.gate.clear()

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        return shop.add(tasks)

    async with served(shop.mount()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
            headers = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)
            assert headers.startswith(b"HTTP/1.1 200 ")
            await reader.readexactly(len(shop.ids[-1]) + 2)
        assert shop.log == []
        shop.gate.set()
        for task_id in shop.ids:
            assert await shop.ended(task_id) is TaskStatus.SUCCESS
        writer.close()
        await writer.wait_closed()
