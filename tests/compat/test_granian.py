"""What `compat.granian` relies on. Seen in granian 2.8.9."""

from __future__ import annotations

import asyncio
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server

from taskflow_otel.compat.granian import any_stopping, running_servers
from tests.compat.shapes import Shape
from tests.servers import free_port
from tests.waiting import eventually

SHAPE = Shape("granian", "2.8.9")


async def test_an_embedded_server_is_found_on_its_loop_and_says_that_it_stops() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    server = Server(app, port=free_port(), interface=Interfaces.ASGINL, log_enabled=False)

    async def serve() -> None:
        await server.serve()

    assert running_servers() == []
    serving = asyncio.create_task(serve())
    await eventually(lambda: bool(running_servers()), "the server")
    found = running_servers()
    before = any_stopping(found)
    server.stop()
    SHAPE.holds(
        found == [server] and not before and any_stopping(found),
        "the coroutine of Server.serve in granian/server/embed.py is no longer found in the tasks of the loop, or its "
        "`interrupt_signal` no longer says that it was told to stop.",
    )
    await serving
