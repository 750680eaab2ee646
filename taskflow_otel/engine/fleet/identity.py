"""Who this process is, and whether another process of the same host still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from taskflow_otel.model.ids import new_task_id


def new_instance_id() -> str:
    """A readable id that no other instance, past or future, has."""
    return f"{socket.gethostname()}-{os.getpid()}-{new_task_id()[-8:]}"


def host_identity() -> str:
    """The machine, its boot and its process-id namespace: where equal, process ids mean the same processes."""
    return "|".join((socket.gethostname(), _read("/proc/sys/kernel/random/boot_id"), _link("/proc/self/ns/pid")))


def process_started(pid: int) -> str:
    """A mark of when this process started (clock ticks since boot), empty where it cannot be told or is gone."""
    stat = _read(f"/proc/{pid}/stat")
    # The command name, in parentheses, may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in {"Z", "X"}:
        return ""
    return fields[19]


def process_gone(pid: int, started: str) -> bool:
    """Whether the process `pid` that started at `started` has ended, a zombie or a reused id included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return started != "" and process_started(pid) != started


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
