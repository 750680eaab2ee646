"""What the web room knows of the server that runs it: whether it is stopping, and how to cut a client off."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from starlette.types import Scope

from taskflow_otel.compat import granian, hypercorn, uvicorn
from taskflow_otel.runtime.hang_up import hang_up
from taskflow_otel.runtime.interrupts import on_signals

_KNOWN = (granian, hypercorn, uvicorn)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ServerWatch:
    """Whether the server of the running event loop is stopping, from now until `close`.

    A server that is known says so itself, whoever stops it. Of any other one, a signal that usually stops a process is
    taken for its stop: where it was none, a browser opens its stream again.
    """

    def __init__(self) -> None:
        self._found = [(known, servers) for known in _KNOWN if (servers := known.running_servers())]
        self._signalled = False
        self._signals = ExitStack()
        if not self._found:
            self._signals.enter_context(on_signals(_STOP_SIGNALS, self._hear))

    @property
    def stopping(self) -> bool:
        """Whether the server waits for its connections to end."""
        return self._signalled or any(known.any_stopping(servers) for known, servers in self._found)

    def cutter_of(self, scope: Scope) -> Callable[[], object] | None:
        """How to close the connection of a request, with what waits to be written to it; `None` where nobody can.

        Over HTTP/2 nobody can: other answers share the connection.
        """
        for known, servers in self._found:
            if known is uvicorn and (transport := uvicorn.transport_of(scope, servers)) is not None:
                return transport.abort
        server, client = _address(scope.get("server")), _address(scope.get("client"))
        if scope["http_version"].startswith("1") and server is not None and client is not None:
            return partial(hang_up, server, client)
        return None

    def close(self) -> None:
        """Hear signals no longer."""
        self._signals.close()

    def _hear(self) -> None:
        self._signalled = True


def _address(pair: Any) -> tuple[str, int] | None:
    """Host and port, which granian gives as a text; `None` for the path of a socket."""
    try:
        host, port = pair
        return str(host), int(port)
    except (TypeError, ValueError):
        return None
