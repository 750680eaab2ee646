"""User code may raise anything, anywhere: each shape ends in a correct state, and the engine runs on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from taskflow_otel import TaskManager, TaskRecord, TaskStatus, task_log
from taskflow_otel.backends import Backend, MemoryBackend, SqliteBackend
from taskflow_otel.model.record import MAX_TEXT
from tests.managers import started
from tests.waiting import eventually


class OwnBaseError(BaseException):
    """Not an `Exception`."""


class UnprintableError(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class ExitingTextError(Exception):
    """Its text ends the process, if one lets it."""

    def __str__(self) -> NoReturn:
        raise SystemExit(3)

    __repr__ = __str__


class TextlessError(Exception):
    """Its text is no text."""

    def __str__(self) -> Any:
        return 42  # noqa: PLE0307  # that is the point


def recurse() -> None:
    recurse()


def raising(exc: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise exc

    return function


def group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [TypeError("two")])])


def base_group() -> None:
    raise BaseExceptionGroup("several", [SystemExit(1), KeyboardInterrupt()])


def chained() -> None:
    try:
        raise ValueError("first")
    except ValueError as exc:
        raise RuntimeError("second") from exc


SHAPES: dict[str, tuple[Callable[[], None], str, str]] = {
    "base": (raising(OwnBaseError("b")), "tests.engine.test_failure.OwnBaseError", "b"),
    "exit": (raising(SystemExit(3)), "SystemExit", "3"),
    "interrupt": (raising(KeyboardInterrupt()), "KeyboardInterrupt", ""),
    "group": (group, "ExceptionGroup", "several (2 sub-exceptions)"),
    "base-group": (base_group, "BaseExceptionGroup", "several (2 sub-exceptions)"),
    "unprintable": (
        raising(UnprintableError()),
        "tests.engine.test_failure.UnprintableError",
        "<str() of tests.engine.test_failure.UnprintableError raised ValueError>",
    ),
    "exiting-text": (
        raising(ExitingTextError()),
        "tests.engine.test_failure.ExitingTextError",
        "<str() of tests.engine.test_failure.ExitingTextError raised SystemExit>",
    ),
    "textless": (
        raising(TextlessError()),
        "tests.engine.test_failure.TextlessError",
        "<str() of tests.engine.test_failure.TextlessError raised TypeError>",
    ),
    "generator-exit": (raising(GeneratorExit("g")), "GeneratorExit", "g"),
    "stop-async": (raising(StopAsyncIteration("s")), "StopAsyncIteration", "s"),
    "cancelled": (raising(asyncio.CancelledError("mine")), "asyncio.exceptions.CancelledError", "mine"),
    "nul": (raising(ValueError("a\x00b")), "ValueError", "a\\x00b"),
    "surrogate": (raising(ValueError("a\udc80b")), "ValueError", "a\\udc80b"),
    "recursion": (recurse, "RecursionError", "maximum recursion depth exceeded"),
    "chained": (chained, "RuntimeError", "second"),
}


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return MemoryBackend(durable=True) if request.param == "memory" else SqliteBackend(tmp_path / "tasks.db")


async def run_one(manager: TaskManager, body: Callable[[], None], executor: str, **options: Any) -> TaskRecord:
    """Run `body` as a task of this executor, then a harmless one to see that the engine goes on."""

    async def job() -> None:
        body()

    async def awaiting() -> None:
        await asyncio.sleep(0)
        body()

    functions: dict[str, Callable[..., Any]] = {"async": job, "awaiting": awaiting, "thread": body}
    failing = manager.task(name="failing", **options)(functions[executor])

    @manager.task(name="harmless", persist=True)
    async def harmless() -> None: ...

    async with started(manager):
        task_id = await manager.enqueue(failing)
        await manager.wait(task_id, timeout=20)
        after = await manager.enqueue(harmless)
        assert (await manager.wait(after, timeout=20)).status is TaskStatus.SUCCESS
        assert manager.queue_stats()["default"].running == 0
        (record,) = [r for r in [await manager.get(task_id)] if not manager.store.list()]
        return record


@pytest.mark.parametrize("executor", ["async", "awaiting", "thread"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_whatever_a_task_raises_is_a_failure_of_that_task_alone(
    backend: Backend, executor: str, shape: str
) -> None:
    body, error_type, error = SHAPES[shape]
    record = await run_one(TaskManager(snapshot_backend=backend), body, executor, persist=True)
    assert (record.status, record.error_type) == (TaskStatus.FAILED, error_type)
    assert record.error is not None
    assert record.error.startswith(error)
    assert record.stacktrace is not None
    assert len(record.error) <= MAX_TEXT


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_a_stop_iteration_is_a_failure_although_no_future_can_carry_it(executor: str) -> None:
    record = await run_one(TaskManager(), raising(StopIteration("s")), executor)
    assert (record.status, record.error_type) == (TaskStatus.FAILED, "RuntimeError")
    assert "StopIteration" in str(record.stacktrace)


async def test_a_text_without_end_is_cut_where_one_can_see_it(backend: Backend) -> None:
    body = raising(ValueError("x" * 5_000_000))
    record = await run_one(TaskManager(snapshot_backend=backend), body, "async", persist=True)
    assert record.error is not None
    assert record.error.endswith("characters cut]")
    assert len(record.error) < MAX_TEXT + 100
    assert record.stacktrace is not None
    assert len(record.stacktrace) < MAX_TEXT + 100


@pytest.mark.parametrize("executor", ["async", "thread"])
@pytest.mark.parametrize(("shape", "attempts"), [("base", 1), ("exit", 1), ("cancelled", 1), ("group", 3)])
async def test_only_an_exception_earns_another_attempt_unless_more_was_asked_for(
    executor: str, shape: str, attempts: int
) -> None:
    body, _, _ = SHAPES[shape]
    record = await run_one(TaskManager(), body, executor, retries=2)
    assert record.attempt + 1 == attempts
    everything = await run_one(TaskManager(), body, executor, retries=2, retry_on=BaseException)
    assert (everything.status, everything.attempt) == (TaskStatus.FAILED, 2)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_task_that_cancels_itself_and_returns_has_succeeded(durable: bool) -> None:
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=durable))

    @manager.task(persist=durable)
    async def job() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with started(manager):
        task_id = await manager.enqueue(job)
        assert (await manager.wait(task_id, timeout=5)).status is TaskStatus.SUCCESS


async def test_a_timeout_of_the_users_own_is_an_ordinary_failure() -> None:
    manager = TaskManager()

    @manager.task(timeout=60, retries=1)
    async def job() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    async with started(manager):
        record = await manager.wait(await manager.enqueue(job), timeout=5)
    assert (record.status, record.error_type, record.attempt) == (TaskStatus.FAILED, "TimeoutError", 1)
    assert record.reason is None


async def test_log_entries_of_any_text_are_kept(backend: Backend) -> None:
    manager = TaskManager(snapshot_backend=backend)

    @manager.task(persist=True)
    async def job() -> None:
        task_log("nul \x00 and surrogate \udc80")

    async with started(manager):
        task_id = await manager.enqueue(job)
        assert (await manager.wait(task_id, timeout=5)).status is TaskStatus.SUCCESS
        (entry,) = await manager.engine.lookup.logs(task_id)
    assert entry.message == "nul \\x00 and surrogate \\udc80"


async def test_a_storm_of_failures_in_threads_leaves_every_thread_usable() -> None:
    manager = TaskManager(max_sync_threads=4)
    seen: set[int] = set()

    @manager.task()
    def exit_thread() -> None:
        seen.add(threading.get_ident())
        raise SystemExit

    async with started(manager):
        for _ in range(50):
            await manager.enqueue(exit_thread)
        await eventually(lambda: manager.store.list() == [], "the storm to pass")
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("taskflow-task")]
        assert len(threads) <= 4
        assert seen <= {thread.ident for thread in threads}
