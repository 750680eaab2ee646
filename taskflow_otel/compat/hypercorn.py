"""hypercorn: whether the server that runs the application is stopping.

It waits for its connections before it ends the lifespan. The context of its worker shows when that wait begins, even if
another process received the signal. It is found on the event loop, by the coroutine that serves.
"""

from __future__ import annotations

import sys
from typing import Any

from taskflow_otel.compat.coroutines import variables_of


def running_servers() -> list[Any]:
    """The contexts of the hypercorn workers of the running event loop."""
    module = sys.modules.get("hypercorn.asyncio.run")
    if module is None:
        return []
    return [variables["context"] for variables in variables_of(module.worker_serve.__code__) if "context" in variables]


def any_stopping(servers: list[Any]) -> bool:
    """Whether one of these workers waits for its connections to end."""
    return any(context.terminated.is_set() for context in servers)
