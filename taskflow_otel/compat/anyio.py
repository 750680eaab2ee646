"""anyio: how a thread finds the event loop that it works for."""

from __future__ import annotations

# No public name: anyio sets it only in the threads of its own pool.
from anyio._core._eventloop import threadlocals


def serve_loop(token: object) -> None:
    """Make the current thread a worker of an event loop, like those of anyio's pool: `anyio.from_thread` works in it.

    `token`: what `anyio.lowlevel.current_token()` returns on that loop.
    """
    threadlocals.current_token = token
    threadlocals.current_cancel_scope = None
