"""Ending a TCP connection of this process that other code serves."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

_OPEN_FILES = Path("/dev/fd")


def hang_up(server: tuple[str, int], client: tuple[str, int]) -> bool:
    """Shut down the connection between these two addresses; return `False` if this process cannot find it.

    Code that reads or writes there sees the end: a write that waits for a peer that does not read fails.
    """
    try:
        numbers = [int(path.name) for path in _OPEN_FILES.iterdir()]
    except OSError:
        return False
    return any(_is_between(number, server, client) for number in numbers)


def _is_between(number: int, server: tuple[str, int], client: tuple[str, int]) -> bool:
    """Whether this open file is the connection; if so, shut it down."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        with socket.socket(fileno=os.dup(number)) as connection:
            if connection.getpeername()[:2] != client or connection.getsockname()[:2] != server:
                return False
            connection.shutdown(socket.SHUT_RDWR)
            return True
    except OSError:
        # It was closed since the listing, or it is a socket without a peer.
        return False
