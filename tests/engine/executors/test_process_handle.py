"""The process of an attempt, from outside: it dies, is cancelled or timed out, and never outlives its manager."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from taskflow_otel import (
    TaskManager,
    TaskStatus,
)
from taskflow_otel.engine.executors import process_handle
from tests.engine.executors import process_tasks
from tests.engine.executors.conftest import Start, alive, environment, in_shared, pid_in, run, script
from tests.waiting import eventually, wait_until

HOLDERS = [
    pytest.param(process_tasks.hold_on, "clean", id="with a finally block"),
    pytest.param(process_tasks.stop_when_asked, "asked", id="watching for the request"),
    pytest.param(process_tasks.hold_on_regardless, "clean", id="swallowing everything"),
    pytest.param(process_tasks.hold_the_interpreter, None, id="inside C code"),
]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exit", "exited with code 3"),
        ("kill", "was killed by SIGKILL"),
        ("segfault", "was killed by SIGSEGV"),
        ("leave a fork behind", "exited with code 4"),
    ],
)
async def test_a_process_that_dies_fails_its_attempt_and_is_replaced(
    start: Start, tmp_path: Path, how: str, message: str
) -> None:
    manager = await start(max_process_workers=1)
    manager.task(executor="process")(process_tasks.die)
    manager.task(executor="process")(process_tasks.write)
    record = await run(manager, process_tasks.die, how)
    assert (record.status, record.error_type) == (TaskStatus.FAILED, "taskflow_otel.errors.TaskProcessError")
    assert message in (record.error or "")
    assert (await run(manager, process_tasks.write, tmp_path / "x", "next")).status is TaskStatus.SUCCESS


async def test_a_process_that_cannot_be_started_fails_its_attempt(start: Start) -> None:
    manager = await start()
    manager.task(executor="process")(process_tasks.give_back_a_lock)
    interpreter = multiprocessing.spawn.get_executable()
    multiprocessing.spawn.set_executable("/nowhere/python")
    try:
        record = await run(manager, process_tasks.give_back_a_lock)
    finally:
        multiprocessing.spawn.set_executable(interpreter)
    assert record.error_type == "taskflow_otel.errors.TaskProcessError"
    assert "could not be started" in (record.error or "")
    assert (await run(manager, process_tasks.give_back_a_lock)).status is TaskStatus.SUCCESS


async def test_a_child_finds_what_its_parent_had_imported_from_another_working_directory(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "scales_of_a_shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "weights.py").write_text("GRAMS = 3\n")
    (package / "tasks.py").write_text(
        f"from {package.name}.weights import GRAMS\n\n\ndef weigh() -> None:\n    assert GRAMS == 3\n"
    )
    # As uvicorn does: the first place is the working directory, whatever that is.
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(process_handle, "_FIRST_DIRECTORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    weigh = importlib.import_module(f"{package.name}.tasks").weigh
    try:
        manager = await start()
        manager.task(executor="process")(weigh)
        monkeypatch.chdir("/")
        record = await run(manager, weigh)
        assert (record.status, record.error) == (TaskStatus.SUCCESS, None)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
            del sys.modules[name]


async def test_a_death_counts_as_a_failed_attempt(start: Start, tmp_path: Path) -> None:
    manager = await start()
    manager.task(executor="process", retries=1)(process_tasks.die_once)
    record = await run(manager, process_tasks.die_once, tmp_path / "marker")
    assert (record.status, record.attempt, record.retries_used) == (TaskStatus.SUCCESS, 1, 1)


async def test_an_idle_process_that_was_killed_is_replaced_unnoticed(start: Start, tmp_path: Path) -> None:
    manager = await start(max_process_workers=1)
    manager.task(executor="process")(process_tasks.write_pid)
    await run(manager, process_tasks.write_pid, tmp_path / "first")
    first = await pid_in(tmp_path / "first")
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: not Path(f"/proc/{first}").exists(), "the end of the idle process")
    record = await run(manager, process_tasks.write_pid, tmp_path / "second")
    assert record.status is TaskStatus.SUCCESS
    assert await pid_in(tmp_path / "second") != first


@pytest.mark.parametrize(("func", "left"), HOLDERS)
async def test_cancelling_ends_the_process_of_the_attempt_and_no_other(
    start: Start, tmp_path: Path, func: Callable[..., None], left: str | None
) -> None:
    manager = await start()
    manager.task(executor="process")(func)
    manager.task(executor="process")(process_tasks.wait_for)
    sibling = await manager.enqueue(process_tasks.wait_for, tmp_path / "go", tmp_path / "sibling")
    task_id = await manager.enqueue(func, tmp_path / "started", tmp_path / "cleaned")
    pid, other = await pid_in(tmp_path / "started"), await pid_in(tmp_path / "sibling")
    await manager.cancel(task_id)
    assert (await manager.wait(task_id, timeout=60)).status is TaskStatus.CANCELLED
    assert not alive(pid)
    assert alive(other)
    assert (tmp_path / "cleaned").read_text() == left if left else not (tmp_path / "cleaned").exists()
    (tmp_path / "go").touch()
    assert (await manager.wait(sibling, timeout=60)).status is TaskStatus.SUCCESS


async def test_cancelling_twice_does_not_wait_for_the_patience_of_the_first(start: Start, tmp_path: Path) -> None:
    manager = await start()
    manager.task(executor="process")(process_tasks.hold_on_regardless)
    task_id = await manager.enqueue(process_tasks.hold_on_regardless, tmp_path / "started", tmp_path / "cleaned")
    pid = await pid_in(tmp_path / "started")
    await manager.cancel(task_id)
    await asyncio.sleep(0)
    await manager.cancel(task_id)
    assert (await manager.wait(task_id, timeout=60)).status is TaskStatus.CANCELLED
    assert not alive(pid)


async def test_a_timeout_ends_the_process_and_fails_the_attempt(start: Start, tmp_path: Path) -> None:
    manager = await start(max_process_workers=1)
    manager.task(executor="process", timeout=0.2)(process_tasks.hold_on)
    record = await run(manager, process_tasks.hold_on, tmp_path / "started", tmp_path / "cleaned")
    assert (record.status, record.reason) == (TaskStatus.FAILED, "timeout")
    assert record.error_type == "taskflow_otel.errors.TaskTimeoutError"
    assert not alive(await pid_in(tmp_path / "started"))


@in_shared
async def test_signals_of_others_do_not_end_a_task(shared: TaskManager, tmp_path: Path) -> None:
    shared.task(executor="process")(process_tasks.ignore_strangers)
    record = await run(shared, process_tasks.ignore_strangers, tmp_path / "x")
    assert (record.status, (tmp_path / "x").read_text()) == (TaskStatus.SUCCESS, "still here")


@pytest.mark.parametrize(("func", "left"), HOLDERS)
async def test_no_child_outlives_the_shutdown(
    start: Start, tmp_path: Path, func: Callable[..., None], left: str | None
) -> None:
    manager = await start()
    manager.task(executor="process")(func)
    task_id = await manager.enqueue(func, tmp_path / "started", tmp_path / "cleaned")
    pid = await pid_in(tmp_path / "started")
    await manager.shutdown()
    assert not alive(pid)
    record = manager.store.get(task_id)
    assert record is not None
    assert (record.status, record.reason) == (TaskStatus.INTERRUPTED, "shutdown")


@pytest.mark.parametrize("how", ["sleep", "sleep in C"])
def test_children_die_with_a_parent_that_was_killed(tmp_path: Path, how: str) -> None:
    with subprocess.Popen(script(how, str(tmp_path / "pid")), env=environment(), cwd=tmp_path) as parent:
        wait_until((tmp_path / "pid").exists, "the task")
        wait_until(lambda: bool((tmp_path / "pid").read_text()), "its process id")
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid), "the end of the child")
