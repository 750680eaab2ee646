"""What `compat.hypercorn` relies on. Seen in hypercorn 0.18.0."""

from __future__ import annotations

import asyncio
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from taskflow_otel.compat.hypercorn import any_stopping, running_servers
from tests.compat.shapes import Shape
from tests.servers import free_port
from tests.waiting import eventually

SHAPE = Shape("hypercorn", "0.18.0")


async def test_a_worker_is_found_on_its_loop_and_says_that_it_stops() -> None:
    begun, proceed, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        begun.set()
        await proceed.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = Config()
    port = free_port()
    config.bind, config.errorlog = [f"127.0.0.1:{port}"], None

    async def serving() -> None:
        await serve(app, config, shutdown_trigger=stop.wait)

    assert running_servers() == []
    server = asyncio.create_task(serving())
    await eventually(lambda: bool(running_servers()), "the worker")
    found = running_servers()

    async def connected() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await eventually(connected, "the start of the server")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await begun.wait()
    before = any_stopping(found)
    stop.set()
    await eventually(lambda: any_stopping(found) or server.done(), "the stop")
    SHAPE.holds(
        len(found) == 1 and not before and not server.done(),
        "the coroutine `worker_serve` in hypercorn/asyncio/run.py is no longer found in the tasks of the loop, or its "
        "`context.terminated` is no longer set before it waits for its connections.",
    )
    proceed.set()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    await server
