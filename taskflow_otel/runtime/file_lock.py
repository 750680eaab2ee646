"""A lock on an open file, against the other processes of this machine that write it."""

from __future__ import annotations

import errno
import threading
from contextlib import suppress

try:
    import fcntl
except ImportError:
    _locks = False
else:
    _locks = True

_PAUSE = 0.002
_TRIES = 5_000
"""Ten seconds: another process writes one batch under the lock. Longer than that it is stopped, not busy."""


def lock(file: int) -> None:
    """Lock an open file for its descriptor, which also excludes other descriptors of this process.

    Raises `TimeoutError` if another process keeps it, and `OSError` on a file system without locks.
    """
    waiting = threading.Event()
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting.wait(_PAUSE)
        else:
            return
    raise TimeoutError("another process holds the lock of the file")


def check_lockable(file: int) -> None:
    """Raise `OSError` if the platform or the file system of an open file has no locks."""
    if not _locks:
        raise OSError(errno.ENOLCK, "Python has no locks of files on this platform")
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlock(file)


def unlock(file: int) -> None:
    """Release the lock, also if a forked child has inherited the descriptor."""
    fcntl.flock(file, fcntl.LOCK_UN)
