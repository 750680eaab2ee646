"""The server that runs the application: whether it is stopping, and how to disconnect a client."""

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
    """Watches whether the server of the running event loop is stopping, until `close`.

    A known server reports this itself. For any other server, a signal that usually stops a process counts as its stop.
    If that was wrong, browsers open their streams again.
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
        """A function that closes the connection of a request and drops unsent data; `None` if that is impossible.

        It is impossible with HTTP/2, because other responses share the connection.
        """
        for known, servers in self._found:
            if known is uvicorn and (transport := uvicorn.transport_of(scope, servers)) is not None:
                return transport.abort
        server, client = _address(scope.get("server")), _address(scope.get("client"))
        if scope["http_version"].startswith("1") and server is not None and client is not None:
            return partial(hang_up, server, client)
        return None

    def close(self) -> None:
        """Stop listening for signals."""
        self._signals.close()

    def _hear(self) -> None:
        self._signalled = True


def _address(pair: Any) -> tuple[str, int] | None:
    """Host and port, which granian passes as a text; `None` for the path of a socket."""
    try:
        host, port = pair
        return str(host), int(port)
    except (TypeError, ValueError):
        return None
