"""What `compat.uvicorn` relies on. Seen in uvicorn 0.54.0."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from taskflow_otel.compat.uvicorn import any_stopping, running_servers, transport_of
from tests.compat.shapes import Shape
from tests.servers import free_port
from tests.waiting import eventually

SHAPE = Shape("uvicorn", "0.54.0")


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_server_is_found_on_its_loop_with_its_connections_and_says_that_it_stops(http: str) -> None:
    begun, proceed = asyncio.Event(), asyncio.Event()
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(dict(scope))
        begun.set()
        await proceed.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, http=http, lifespan="off", log_config=None, access_log=False)
    )

    async def serve() -> None:
        # As an application does that starts its server itself.
        await server.serve()

    assert running_servers() == []
    serving = asyncio.create_task(serve())
    await eventually(lambda: server.started, "the start of the server")
    found = running_servers()
    SHAPE.holds(
        found == [server],
        "the coroutine of Server.serve in uvicorn/server.py is no longer found in the tasks of the loop, or no longer "
        "calls its server `self`.",
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await begun.wait()
    transport = transport_of(scopes[0], found)
    SHAPE.holds(
        transport is not None and transport.get_extra_info("peername") == writer.get_extra_info("sockname"),
        "Server.server_state.connections in uvicorn/server.py no longer holds protocols with the `scope` and the "
        f"`transport` of their request ({http} protocol of uvicorn/protocols/http).",
    )
    before = any_stopping(found)
    server.should_exit = True
    SHAPE.holds(not before and any_stopping(found), "Server.should_exit in uvicorn/server.py no longer says so.")
    proceed.set()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    await serving
