"""uvicorn: whether the server that runs the application is stopping, and how to disconnect a client.

uvicorn ends the lifespan only after the last connection has closed, and tells the application nothing before that.
Its `Server` object knows. We find it through the coroutine that serves on this event loop. This works no matter who
started the server, on which thread it runs, and who handles the signals.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from starlette.types import Scope

from taskflow_otel.compat.coroutines import variables_of


def running_servers() -> list[Any]:
    """The uvicorn servers of the running event loop."""
    module = sys.modules.get("uvicorn.server")
    if module is None:
        return []
    return [variables["self"] for variables in variables_of(module.Server.serve.__code__)]


def any_stopping(servers: list[Any]) -> bool:
    """Whether one of these servers waits for its connections to end."""
    return any(server.should_exit for server in servers)


def transport_of(scope: Scope, servers: list[Any]) -> asyncio.Transport | None:
    """The connection of a request whose response is not complete; `None` if it cannot be found."""
    for server in servers:
        for protocol in server.server_state.connections:
            theirs = getattr(protocol, "scope", None)
            # A middleware may have copied the scope; the copies share the list of headers.
            if theirs is not None and theirs["headers"] is scope["headers"]:
                transport: asyncio.Transport = protocol.transport
                return transport
    return None
