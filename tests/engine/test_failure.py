"""User code may raise anything, anywhere: each shape ends in a correct state, and the engine runs on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import TaskManager, TaskStatus, task_log
from taskflow_otel.backends import Backend, MemoryBackend, SqliteBackend
from taskflow_otel.model.record import MAX_TEXT
from tests.engine.raising import (
    SHAPES,
    raising,
    run_one,
)
from tests.managers import finish, started
from tests.waiting import eventually


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return MemoryBackend(durable=True) if request.param == "memory" else SqliteBackend(tmp_path / "tasks.db")


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


async def test_log_entries_of_any_text_are_kept(backend: Backend) -> None:
    manager = TaskManager(snapshot_backend=backend)

    @manager.task(persist=True)
    async def job() -> None:
        task_log("nul \x00 and surrogate \udc80")

    async with started(manager):
        task_id = await manager.enqueue(job)
        assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.SUCCESS
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


class OddlyChecked(type):
    """A metaclass whose classes cannot be asked."""

    def __instancecheck__(cls, instance: object) -> bool:
        raise SystemExit("instance")


class Odd(Exception, metaclass=OddlyChecked):
    pass


class Nameless(Exception):
    """An exception that hides what it is."""

    @property  # type: ignore[misc]  # as odd objects do
    def __class__(self) -> type:
        raise RuntimeError("no class")


@pytest.mark.parametrize("executor", ["async", "thread"])
@pytest.mark.parametrize("kind", [Odd, Nameless])
async def test_a_task_that_raises_what_cannot_be_asked_fails_and_is_retried(
    executor: Any, kind: type[Exception]
) -> None:
    manager = TaskManager()
    runs: list[int] = []

    def fail() -> None:
        runs.append(1)
        raise kind("no")

    async def fail_on_the_loop() -> None:
        fail()

    job = manager.task(name="job", executor=executor, retries=1, retry_on=(Odd, Nameless))(
        fail_on_the_loop if executor == "async" else fail
    )
    async with started(manager):
        record = await finish(manager, await manager.enqueue(job))
    assert (record.status, record.retries_used, len(runs)) == (TaskStatus.FAILED, 1, 2)
    assert record.error_type == f"{kind.__module__}.{kind.__name__}"
