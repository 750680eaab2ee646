"""The id of this process, and whether another process of the same host still lives."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import Instance

_ENDED = frozenset({"Z", "X"})
"""States of a process that has ended: a zombie, and one that is being removed."""


def new_instance_id() -> str:
    """A readable id that is unique for ever."""
    return f"{socket.gethostname()}-{os.getpid()}-{new_task_id()[-8:]}"


def host_identity() -> str:
    """The machine, its boot and its process-id namespace: if equal, the same process id means the same process.

    Empty if boot or namespace cannot be read: containers may share a host name and use the same process ids. Empty on
    other systems than Linux, so that no process there looks at another one: on Windows, a signal would end it.
    """
    if sys.platform != "linux":
        return ""
    boot, namespace = _read("/proc/sys/kernel/random/boot_id"), _link("/proc/self/ns/pid")
    if not (boot and namespace):
        return ""
    # Copies of a running machine share the boot id. Many containers have no machine id, and need none.
    return "|".join((socket.gethostname(), _read("/etc/machine-id"), boot, namespace))


def process_started(pid: int) -> str:
    """The start time of a process (clock ticks since boot) as text; empty if it cannot be read."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def process_gone(instance: Instance, own_host: str) -> bool:
    """Whether this process can see that the process of an instance has ended.

    `False` for processes that cannot be seen: those of other hosts and namespaces, and those that `/proc` hides.
    """
    if not own_host or instance.host != own_host:
        return False
    try:
        os.kill(instance.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    fields = _stat(instance.pid)
    if not fields:
        return False
    return fields[0] in _ENDED or (instance.process_started != "" and fields[19] != instance.process_started)


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the state on; empty if they cannot be read."""
    # The command name is in parentheses, and may contain spaces and parentheses.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields if len(fields) > 19 else []


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
