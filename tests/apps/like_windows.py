"""A process that looks like Windows to the library: without the modules, calls and signals of Unix.

python -m tests.apps.like_windows DIRECTORY
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

OTHERS = (
    "aiosqlite", "anyio._backends._asyncio", "click", "concurrent.futures.thread", "ctypes", "fastapi", "getpass",
    "msgspec", "multiprocessing.spawn", "opentelemetry.baggage.propagation", "opentelemetry.trace",
    "opentelemetry.trace.propagation.tracecontext", "prometheus_client", "pydantic", "sqlalchemy.ext.asyncio",
    "sqlalchemy.dialects.sqlite.aiosqlite", "tempfile",
)  # fmt: skip
"""Modules of others, which decide at their import where they are."""
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
CALLS = (
    "O_CLOEXEC", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getpgid", "getuid", "killpg",
    "pread", "pwrite", "register_at_fork", "setsid", "wait4", "waitid",
)  # fmt: skip
SIGNALS = ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2")


def ends_the_process(*_: object) -> NoReturn:
    """On Windows, every signal but two ends the process that is only looked at."""
    raise AssertionError("a signal was sent to a process")


def become() -> None:
    """Take away what Windows does not have."""
    for name in OTHERS:
        importlib.import_module(name)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in CALLS:
        delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)
    del asyncio.open_unix_connection, asyncio.start_unix_server
    os.kill = subprocess.Popen.send_signal = ends_the_process  # type: ignore[assignment,method-assign]
    sys.platform = "win32"


async def two_instances(directory: Path) -> None:
    """Two instances of one file look at each other; what one leaves behind, the other takes over."""
    from taskflow_otel import TaskManager, TaskStatus
    from taskflow_otel.engine.fleet.heartbeat import make_instance
    from taskflow_otel.runtime.clock import SYSTEM_CLOCK
    from taskflow_otel.runtime.identity import host_identity, process_gone

    first, second = (TaskManager(snapshot_db=directory / "two.db") for _ in range(2))

    async def work() -> None: ...

    for manager in (first, second):
        manager.task(persist=True, name="work")(work)
    await first.startup()
    left = await first.enqueue(work, delay=0.1)
    await first.shutdown()
    await second.startup()
    assert (await second.wait(left, 30)).status is TaskStatus.SUCCESS
    assert not process_gone(make_instance(SYSTEM_CLOCK, 15.0), host_identity())
    await second.shutdown()


def main() -> None:
    """What a developer does there works, or is refused with a sentence, which it writes into a file."""
    directory = Path(sys.argv[1])
    become()
    from taskflow_otel import ConfigurationError, FileLogger, TaskManager
    from tests.smoke import quick_start, work

    asyncio.run(quick_start(directory))
    asyncio.run(two_instances(directory))
    attempts: list[Callable[[], object]] = [
        lambda: TaskManager().task(executor="process")(work),
        lambda: FileLogger(directory / "rotated.log"),
    ]
    for number, refused in enumerate(attempts):
        try:
            refused()
        except ConfigurationError as error:
            (directory / f"refused-{number}").write_text(str(error))
    log = FileLogger(directory / "tasks.log", mode="watched")
    log.write(["one\n", "two\n"])
    log.release()


if __name__ == "__main__":
    main()
