"""The process executor, through `TaskManager` and with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet

from taskflow_otel import (
    ConfigurationError,
    MissingExtraError,
    TaskArgumentError,
    TaskManager,
    TaskStatus,
)
from tests.engine.executors import process_slow_tasks, process_tasks
from tests.engine.executors.conftest import Start, alive, children, environment, in_shared, pid_in, run, script
from tests.procs import AppProcess
from tests.waiting import eventually, wait_until


async def test_a_function_runs_in_another_process_which_is_used_again(start: Start, tmp_path: Path) -> None:
    manager = await start()
    manager.task(executor="process")(process_tasks.write_pid)
    pids = []
    for number in range(2):
        record = await run(manager, process_tasks.write_pid, tmp_path / str(number))
        assert (record.status, record.executor) == (TaskStatus.SUCCESS, "process")
        pids.append(await pid_in(tmp_path / str(number)))
    assert pids[0] == pids[1] != os.getpid()


@in_shared
async def test_arguments_arrive_as_what_they_were(shared: TaskManager, tmp_path: Path) -> None:
    shared.task(executor="process")(process_tasks.write_order)
    order = process_tasks.Order(UUID(int=7), {"a", "b"})
    await run(shared, process_tasks.write_order, tmp_path / "order", order=order)
    assert (tmp_path / "order").read_text() == f"Order {order.id!r} ['a', 'b']"


async def test_no_more_children_run_than_there_may_be(start: Start, tmp_path: Path) -> None:
    manager = await start(max_process_workers=2)
    manager.task(executor="process")(process_tasks.wait_for)
    before = children(os.getpid())
    ids = [await manager.enqueue(process_tasks.wait_for, tmp_path / "go", tmp_path / str(n)) for n in range(4)]
    pids = {await pid_in(tmp_path / "0"), await pid_in(tmp_path / "1")}
    assert children(os.getpid()) - before == pids
    assert not (tmp_path / "2").exists()
    assert manager.engine.vitals.slots()["process"] == (2, 2)
    (tmp_path / "go").touch()
    assert [(await manager.wait(task_id, timeout=60)).status for task_id in ids] == [TaskStatus.SUCCESS] * 4
    assert {await pid_in(tmp_path / str(number)) for number in range(4)} == pids


@pytest.mark.parametrize(
    ("kind", "error_type", "error"),
    [
        ("plain", "tests.engine.executors.process_tasks.PlainError", "plain words"),
        ("two", "tests.engine.executors.process_tasks.TwoArgumentsError", "7: words"),
        ("locked", "tests.engine.executors.process_tasks.LockedError", "locked words"),
        ("local", "tests.engine.executors.process_tasks.fail.<locals>.LocalError", "local words"),
        ("unspeakable", "tests.engine.executors.process_tasks.UnspeakableError", "RuntimeError"),
        ("group", "ExceptionGroup", "several (2 sub-exceptions)"),
        ("exit", "SystemExit", "leaving"),
        ("stop", "RuntimeError", "StopIteration"),
        ("memory", "MemoryError", "no room"),
        ("large", "tests.engine.executors.process_tasks.PlainError", "characters cut"),
    ],
)
@in_shared
async def test_an_exception_comes_back_with_its_type_words_and_traceback(
    shared: TaskManager, kind: str, error_type: str, error: str
) -> None:
    shared.task(executor="process", name=f"fail {kind}")(process_tasks.fail)
    record = await run(shared, process_tasks.fail, kind)
    assert (record.status, record.error_type) == (TaskStatus.FAILED, error_type)
    assert error in (record.error or "")
    assert "process_tasks.py" in (record.stacktrace or "")
    assert "in fail" in (record.stacktrace or "")
    assert "taskflow_otel/engine" not in (record.stacktrace or "")


@pytest.mark.parametrize(
    ("kind", "retry_on", "no_retry_on", "status"),
    [
        ("plain", process_tasks.PlainError, (), TaskStatus.SUCCESS),
        ("two", process_tasks.TwoArgumentsError, (), TaskStatus.SUCCESS),
        ("locked", process_tasks.LockedError, (), TaskStatus.SUCCESS),
        ("group", ExceptionGroup, (), TaskStatus.FAILED),
        ("local", Exception, (), TaskStatus.SUCCESS),
        ("locked", process_tasks.PlainError, (), TaskStatus.FAILED),
        ("locked", Exception, process_tasks.LockedError, TaskStatus.FAILED),
    ],
)
@in_shared
async def test_retry_on_sees_the_class_of_the_exception(
    shared: TaskManager,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    retry_on: Any,
    no_retry_on: Any,
    status: TaskStatus,
) -> None:
    def fail_once(kind: str, marker: Path) -> None:
        process_tasks.fail_once(kind, marker)

    shared.task(executor="process", name=request.node.name, retries=1, retry_on=retry_on, no_retry_on=no_retry_on)(
        fail_once
    )
    assert (await run(shared, fail_once, kind, tmp_path / "marker")).status is status


@in_shared
async def test_a_result_that_cannot_be_sent_is_no_failure(shared: TaskManager) -> None:
    shared.task(executor="process")(process_tasks.give_back_a_lock)
    assert (await run(shared, process_tasks.give_back_a_lock)).status is TaskStatus.SUCCESS


async def test_a_task_is_pending_until_its_process_has_imported_its_module(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = tmp_path / "begun", tmp_path / "may_end"
    monkeypatch.setenv("IMPORT_BEGUN", str(begun))
    monkeypatch.setenv("IMPORT_MAY_END", str(may_end))
    manager = await start()
    manager.task(executor="process")(process_slow_tasks.quick)
    task_id = await manager.enqueue(process_slow_tasks.quick)
    await eventually(begun.exists, "the import")
    assert (await manager.get(task_id)).status is TaskStatus.PENDING
    may_end.touch()
    assert (await manager.wait(task_id, timeout=60)).status is TaskStatus.SUCCESS


async def test_a_shutdown_does_not_wait_for_an_import(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    monkeypatch.setenv("IMPORT_BEGUN", str(begun))
    monkeypatch.setenv("IMPORT_MAY_END", str(tmp_path / "never"))
    manager = await start(process_shutdown_timeout=1_000)
    manager.task(executor="process")(process_slow_tasks.quick)
    await manager.enqueue(process_slow_tasks.quick)
    await eventually(begun.exists, "the import")
    await manager.shutdown()
    assert begun.exists(), "the import was waited for until it gave up"


@in_shared
async def test_lambdas_and_closures_travel_by_value(shared: TaskManager, tmp_path: Path) -> None:
    text = "closed over"

    def closure(path: Path, make: Callable[[str], str]) -> None:
        path.write_text(make(text))

    shared.task(executor="process", name="by value")(closure)
    record = await run(shared, closure, tmp_path / "x", lambda word: word.upper())
    assert record.status is TaskStatus.SUCCESS, record.stacktrace
    assert (tmp_path / "x").read_text() == "CLOSED OVER"


async def test_what_cannot_be_sent_is_refused_when_it_is_added(start: Start, tmp_path: Path) -> None:
    manager = await start()
    manager.task(executor="process")(process_tasks.write)
    with pytest.raises(
        TaskArgumentError, match=r"arguments of tests\.engine\.executors\.process_tasks\.write cannot be sent"
    ):
        await manager.enqueue(process_tasks.write, tmp_path / "x", threading.Lock())  # type: ignore[call-overload]  # the mistake
    lock = threading.Lock()

    def closure() -> None:
        lock.acquire()

    manager.task(executor="process")(closure)
    with pytest.raises(TaskArgumentError, match=r"the function .*closure cannot be sent"):
        await manager.enqueue(closure)


async def test_without_cloudpickle_an_error_names_the_extra(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    manager = await start()
    closure = manager.task(executor="process", name="closure")(lambda: None)
    with pytest.raises(MissingExtraError, match=r"taskflow-otel\[process\]"):
        await manager.enqueue(closure)
    manager.task(executor="process")(process_tasks.write)
    with pytest.raises(TaskArgumentError, match="lock"):
        await manager.enqueue(process_tasks.write, tmp_path / "x", threading.Lock())  # type: ignore[call-overload]  # the mistake
    assert (await run(manager, process_tasks.write, tmp_path / "x", "text")).status is TaskStatus.SUCCESS


async def test_a_persisted_task_runs_in_a_process_of_the_next_life(start: Start, tmp_path: Path) -> None:
    first = await start(snapshot_db=tmp_path / "tasks.db")
    first.task(executor="process", persist=True)(process_tasks.write)
    await first.pause_queue("default")
    task_id = await first.enqueue(process_tasks.write, tmp_path / "x", "kept")
    await first.shutdown()
    second = await start(snapshot_db=tmp_path / "tasks.db")
    second.task(executor="process", persist=True)(process_tasks.write)
    await second.resume_queue("default")
    assert (await second.wait(task_id, timeout=60)).status is TaskStatus.SUCCESS
    assert (tmp_path / "x").read_text() == "kept"


async def test_encrypted_arguments_reach_the_child(start: Start, tmp_path: Path) -> None:
    manager = await start(encrypt_args_key=Fernet.generate_key())
    manager.task(executor="process")(process_tasks.write_order)
    order = process_tasks.Order(UUID(int=1), {"secret"})
    record = await run(manager, process_tasks.write_order, tmp_path / "x", order)
    assert record.status is TaskStatus.SUCCESS, record.stacktrace
    assert "secret" in (tmp_path / "x").read_text()


async def test_a_manager_that_starts_again_has_new_children(start: Start, tmp_path: Path) -> None:
    manager = await start()
    manager.task(executor="process")(process_tasks.write_pid)
    await run(manager, process_tasks.write_pid, tmp_path / "first")
    await manager.shutdown()
    assert not alive(await pid_in(tmp_path / "first"))
    await manager.startup()
    assert (await run(manager, process_tasks.write_pid, tmp_path / "second")).status is TaskStatus.SUCCESS


@pytest.mark.parametrize(
    "settings",
    [{"max_process_workers": 0}, {"max_process_workers": 1.5}, {"process_shutdown_timeout": timedelta(seconds=-1)}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        TaskManager(**settings)


def test_functions_and_classes_of_a_main_script_travel_by_value(tmp_path: Path) -> None:
    done = subprocess.run(
        script("weigh", str(tmp_path / "marker")),
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "success 1 None ['3 kg in __main__']\n", done.stderr
    assert not done.stderr


def test_process_tasks_run_under_uvicorn_with_several_workers(tmp_path: Path) -> None:
    app = AppProcess(
        "tests.engine.executors.process_app:app",
        tmp_path,
        env={"TASKS_DB": str(tmp_path / "tasks.db")},
        arguments=["--workers", "2"],
    )
    with app:
        for number in range(6):
            request = urllib.request.Request(f"{app.url}/tasks?path={tmp_path / str(number)}", method="POST")
            urllib.request.urlopen(request, timeout=30).close()
        pids: set[int] = set()
        for number in range(6):
            path = tmp_path / str(number)
            wait_until(lambda path=path: path.exists() and " " in path.read_text(), f"task {number}")  # type: ignore[misc]
            pids |= {int(pid) for pid in path.read_text().split()}
        app.terminate()
    wait_until(lambda: not any(alive(pid) for pid in pids), "the end of all workers and their children")
    assert "Traceback" not in app.output
