"""The process executor, through `TaskManager` and with real processes."""

from __future__ import annotations

import asyncio
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel import (
    ConfigurationError,
    LogEvent,
    MissingExtraError,
    TaskArgumentError,
    TaskManager,
    TaskObserver,
    TaskRecord,
    TaskStatus,
    Telemetry,
)
from tests.engine.executors import process_sdk_tasks, process_slow_tasks, process_tasks
from tests.procs import ROOT, AppProcess
from tests.waiting import eventually, wait_until

Start = Callable[..., Awaitable[TaskManager]]

HOLDERS = [
    pytest.param(process_tasks.hold_on, "clean", id="with a finally block"),
    pytest.param(process_tasks.stop_when_asked, "asked", id="watching for the request"),
    pytest.param(process_tasks.hold_on_regardless, "clean", id="swallowing everything"),
    pytest.param(process_tasks.hold_the_interpreter, None, id="inside C code"),
]


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


async def messages(manager: TaskManager, task_id: str) -> list[str]:
    return [entry.message for entry in await manager.engine.lookup.logs(task_id)]


async def pid_in(path: Path) -> int:
    await eventually(lambda: path.exists() and bool(path.read_text()), f"{path.name}")
    return int(path.read_text())


class Spans:
    """A tracer provider of the SDK, and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self.exporter.get_finished_spans() if span.name == name)
        return span


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


async def test_log_entries_and_progress_arrive_while_the_task_runs(start: Start, tmp_path: Path) -> None:
    entries: list[LogEvent] = []

    class Observer(TaskObserver):
        async def on_log(self, event: LogEvent) -> None:
            entries.append(event)

    manager = await start(loggers=[Observer()])
    manager.task(executor="process")(process_tasks.speak)
    task_id = await manager.enqueue(process_tasks.speak, tmp_path / "go", tags={"colour": "red"})
    await eventually(lambda: bool(entries), "the log entry")
    assert (entries[0].message, entries[0].level) == ("half way", "warning")
    assert entries[0].extra == {"path": str(tmp_path / "go"), "attempt": 0, "tag": "red"}

    async def half() -> bool:
        progress = (await manager.get(task_id)).progress
        return progress is not None and (progress.done, progress.total, progress.message) == (1, 2, "half")

    await eventually(half, "the progress")
    (tmp_path / "go").touch()
    assert (await manager.wait(task_id, timeout=60)).status is TaskStatus.SUCCESS
    assert await messages(manager, task_id) == ["half way", "done"]


async def test_records_of_standard_logging_become_log_entries_where_asked(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    manager = await start(capture_logs=True)
    manager.task(executor="process")(process_tasks.log_by_stdlib)
    record = await run(manager, process_tasks.log_by_stdlib)
    assert await messages(manager, record.task_id) == ["packed 3"]


async def test_spans_made_in_the_child_come_back_below_the_span_of_the_attempt(start: Start) -> None:
    spans = Spans()
    manager = await start(telemetry=Telemetry(tracer_provider=spans.provider))
    manager.task(executor="process")(process_tasks.trace_it)
    token = otel_context.attach(baggage.set_baggage("user", "ann"))
    record = await run(manager, process_tasks.trace_it)
    otel_context.detach(token)
    assert record.status is TaskStatus.SUCCESS, record.stacktrace

    attempt, inner, innermost = (spans.named(name) for name in ("process trace_it", "inner", "innermost"))
    outer_log, inner_log = await manager.engine.lookup.logs(record.task_id)
    assert attempt.context.trace_id == inner.context.trace_id == innermost.context.trace_id
    assert outer_log.extra["trace_id"] == trace.format_trace_id(attempt.context.trace_id)
    assert outer_log.extra["span_id"] == trace.format_span_id(attempt.context.span_id)
    assert outer_log.extra["user"] == "ann"
    assert inner_log.extra["span_id"] == trace.format_span_id(innermost.context.span_id)

    assert inner.parent is not None
    assert inner.parent.span_id == attempt.context.span_id
    assert innermost.parent is not None
    assert innermost.parent.span_id == inner.context.span_id
    assert (dict(inner.attributes or {}), inner.status.status_code) == ({"n": 3}, trace.StatusCode.ERROR)
    assert [event.name for event in inner.events] == ["looked", "exception"]
    assert inner.instrumentation_scope is not None
    assert (inner.instrumentation_scope.name, inner.instrumentation_scope.version) == ("shop", "1.2")
    assert attempt.start_time is not None
    assert inner.start_time is not None
    assert inner.end_time is not None
    assert attempt.end_time is not None
    assert attempt.start_time <= inner.start_time <= inner.end_time <= attempt.end_time


async def test_a_log_entry_names_the_span_of_the_child_that_it_was_written_in(start: Start) -> None:
    entries: list[LogEvent] = []

    class Observer(TaskObserver):
        async def on_log(self, event: LogEvent) -> None:
            entries.append(event)

    spans = Spans()
    manager = await start(telemetry=Telemetry(tracer_provider=spans.provider), loggers=[Observer()])
    manager.task(executor="process")(process_tasks.trace_it)
    await run(manager, process_tasks.trace_it)
    await eventually(lambda: len(entries) == 2, "both log entries")
    assert entries[1].span_id == trace.format_span_id(spans.named("innermost").context.span_id)


async def test_a_child_with_an_sdk_of_its_own_exports_by_itself_and_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASK_SPANS", str(tmp_path / "spans"))
    spans = Spans()
    manager = await start(telemetry=Telemetry(tracer_provider=spans.provider))
    manager.task(executor="process")(process_sdk_tasks.traced)
    await run(manager, process_sdk_tasks.traced)
    # Nothing but the flush after the attempt could have written it: the next batch is an hour away.
    await eventually(lambda: "by its own SDK" in (tmp_path / "spans").read_text(), "the export")
    attempt = spans.named("process traced")
    assert f"0x{trace.format_span_id(attempt.context.span_id)}" in (tmp_path / "spans").read_text()


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


@in_shared
async def test_signals_of_others_do_not_end_a_task(shared: TaskManager, tmp_path: Path) -> None:
    shared.task(executor="process")(process_tasks.ignore_strangers)
    record = await run(shared, process_tasks.ignore_strangers, tmp_path / "x")
    assert (record.status, (tmp_path / "x").read_text()) == (TaskStatus.SUCCESS, "still here")


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
        await manager.enqueue(process_tasks.write, tmp_path / "x", threading.Lock())
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
        await manager.enqueue(process_tasks.write, tmp_path / "x", threading.Lock())
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


def script(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests/engine/executors/process_script.py"), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


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


@pytest.mark.parametrize("how", ["sleep", "sleep in C"])
def test_children_die_with_a_parent_that_was_killed(tmp_path: Path, how: str) -> None:
    with subprocess.Popen(script(how, str(tmp_path / "pid")), env=environment(), cwd=tmp_path) as parent:
        wait_until((tmp_path / "pid").exists, "the task")
        wait_until(lambda: bool((tmp_path / "pid").read_text()), "its process id")
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid), "the end of the child")


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
