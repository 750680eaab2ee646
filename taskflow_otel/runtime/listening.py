"""The address at which this process serves: the listening socket, which the workers of one server share."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

_DESCRIPTORS = Path("/dev/fd")


def serving_address() -> str | None:
    """The first listening socket of this process: `HOST:PORT`, or the path of a Unix socket.

    Empty if it has none (yet: most servers listen after the lifespan's start), `None` if the system does not tell.
    Internet sockets go before Unix sockets, which libraries open for their own purposes. Workers that inherit the
    socket of their server hold it under the same number, so they agree.
    """
    try:
        descriptors = sorted(int(entry.name) for entry in _DESCRIPTORS.iterdir())
    except OSError:
        return None
    local = ""
    for descriptor in descriptors:
        address = _listening(descriptor)
        if isinstance(address, tuple):
            return f"{address[0]}:{address[1]}"
        local = local or address
    return local


def _listening(descriptor: int) -> tuple[str, int] | str:
    """The address of a listening socket; empty for anything else."""
    try:
        # Nothing but sockets may be duplicated: closing a copy would release the locks that SQLite holds on its file.
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return ""
        with socket.socket(fileno=os.dup(descriptor)) as one:
            if one.type is not socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return ""
            address = one.getsockname()
    except OSError:
        return ""
    if isinstance(address, tuple):
        return str(address[0]), int(address[1])
    return address if isinstance(address, str) else ""
