"""granian: whether its embedded server, which runs on the application's own loop, is stopping.

The workers of its command run on loops of their own, and there only the signal tells (`web.servers`).
"""

from __future__ import annotations

import sys
from typing import Any

from taskflow_otel.compat.coroutines import variables_of


def running_servers() -> list[Any]:
    """The embedded granian servers of the running event loop."""
    module = sys.modules.get("granian.server.embed")
    if module is None:
        return []
    return [variables["self"] for variables in variables_of(module.Server.serve.__code__)]


def any_stopping(servers: list[Any]) -> bool:
    """Whether one of these servers was told to stop."""
    return any(server.interrupt_signal for server in servers)
