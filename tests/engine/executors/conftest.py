"""Managers with child processes, of which none may be left at the end of a test."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from taskflow_otel import (
    TaskManager,
    TaskRecord,
)
from tests.procs import ROOT
from tests.waiting import eventually

Start = Callable[..., Awaitable[TaskManager]]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children(pid: int) -> set[int]:
    """The living children of a process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] not in "ZX":
                    found.add(int(entry.name))
    return found


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start managers; at the end none of their children and threads may be left."""
    before, threads = children(os.getpid()), set(threading.enumerate())
    managers = []

    async def started(**settings: Any) -> TaskManager:
        manager = TaskManager(**{"max_process_workers": 2, "shutdown_timeout": 0.1, **settings})
        await manager.startup()
        managers.append(manager)
        return manager

    yield started
    for manager in managers:
        await manager.shutdown()
    assert children(os.getpid()) <= before
    assert {thread for thread in threading.enumerate() if thread.name.startswith("taskflow-")} <= threads


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[TaskManager]:
    """One manager with one child for all the tests that leave it as it was: a start takes a second."""
    manager = TaskManager(max_process_workers=1)
    await manager.startup()
    yield manager
    await manager.shutdown()


in_shared = pytest.mark.asyncio(loop_scope="module")


async def run(manager: TaskManager, func: Callable[..., Any], *args: Any, **kwargs: Any) -> TaskRecord:
    return await manager.wait(await manager.enqueue(func, *args, **kwargs), timeout=60)


async def pid_in(path: Path) -> int:
    await eventually(lambda: path.exists() and bool(path.read_text()), f"{path.name}")
    return int(path.read_text())


def script(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests/engine/executors/process_script.py"), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
