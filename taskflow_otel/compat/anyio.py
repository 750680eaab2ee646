"""anyio: how a thread finds the event loop that it works for."""

from __future__ import annotations

# No public name: anyio sets it in the threads of its own pool alone.
from anyio._core._eventloop import threadlocals


def serve_loop(token: object) -> None:
    """Make the present thread a worker of an event loop, as those of anyio's pool: `anyio.from_thread` works in it.

    `token`: what `anyio.lowlevel.current_token()` returns on that loop.
    """
    threadlocals.current_token = token
    threadlocals.current_cancel_scope = None
