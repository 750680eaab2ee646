"""A process that looks like macOS to the library: without `/proc` and what else only Linux has.

python -m tests.apps.like_macos DIRECTORY
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from tests.apps.like_windows import OTHERS, two_instances

PLACES = ("/proc/", "/sys/", "/etc/machine-id")
CALLS = ("O_TMPFILE", "memfd_create", "pidfd_open", "pipe2", "sched_getaffinity", "setns", "splice", "unshare")


def no_proc(event: str, arguments: tuple[Any, ...]) -> None:
    """There are no such files."""
    if (
        event == "open"
        and isinstance(arguments[0], str)
        and arguments[0].startswith(("/proc/", "/sys/", "/etc/machine"))
    ):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])


def become() -> None:
    """Take away what macOS does not have."""
    for name in OTHERS:
        importlib.import_module(name)
    for name in CALLS:
        if hasattr(os, name):
            delattr(os, name)
    sys.addaudithook(no_proc)
    sys.platform = "darwin"


def main() -> None:
    """What a developer does there works, tasks in processes of their own too."""
    directory = Path(sys.argv[1])
    become()
    from taskflow_otel import FileLogger
    from tests.smoke import in_a_process, quick_start

    asyncio.run(quick_start(directory))
    asyncio.run(two_instances(directory))
    asyncio.run(in_a_process())
    log = FileLogger(directory / "tasks.log")
    log.write(["one\n", "two\n"])
    log.release()


if __name__ == "__main__":
    main()
