"""Files that only the account of this process may read, and who else may read one."""

from __future__ import annotations

import logging
import os
import shlex
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

PRIVATE = 0o600


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file. If that creates it, only this account can read and write it (a stricter umask still counts)."""
    # Without the flag, Windows writes two characters for each end of a line.
    return os.open(path, flags | getattr(os, "O_BINARY", 0), PRIVATE)


def other_readers(path: Path) -> str | None:
    """Who besides the owner can read a file, in words; `None` if nobody, or if there is no such file.

    Judged by the permissions of the file and of the directories above it. Those that Python shows on Windows say
    nothing, so the answer there is `None`.
    """
    if sys.platform == "win32":
        return None
    try:
        file = path.stat()
        if not stat.S_ISREG(file.st_mode):
            return None
        above = [directory.stat() for directory in path.resolve().parents]
    except OSError:
        return None
    if file.st_mode & stat.S_IROTH and all(directory.st_mode & stat.S_IXOTH for directory in above):
        return "every account of this machine"
    if file.st_mode & stat.S_IRGRP and all(_lets_in(directory, file.st_gid) for directory in above):
        return f"the group {_group(file.st_gid)}"
    return None


def warn_of_readers(logger: logging.Logger, what: str, paths: Iterable[Path]) -> None:
    """Log a warning with each of these files that others can read, and the command that changes it."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if who := other_readers(path):
            found.setdefault(who, []).append(shlex.quote(str(path)))
    for who, names in found.items():
        logger.warning("%s can be read by %s. To change that: chmod 600 %s", what, who, " ".join(names))


def _lets_in(directory: os.stat_result, group: int) -> bool:
    return bool(directory.st_mode & (stat.S_IXGRP if directory.st_gid == group else stat.S_IXOTH))


def _group(number: int) -> str:
    import grp  # not on Windows

    try:
        return repr(grp.getgrgid(number).gr_name)
    except KeyError:
        return str(number)
