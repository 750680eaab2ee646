"""What a task can see and say: its context, its log, its progress."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import (
    InMemoryLogger,
    TaskManager,
    get_task_context,
    task_log,
)
from tests.managers import Gate, finish, started


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with started(TaskManager()) as running:
        yield running


async def test_a_task_sees_its_context_and_the_context_variables_of_its_caller(manager: TaskManager) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[Any] = []

    def look() -> None:
        context = get_task_context()
        seen.append((context.task_id, context.func_name, context.attempt, dict(context.tags), variable.get()))

    variable.set("from the caller")
    task_id = await manager.enqueue(look, tags={"n": 1})
    await finish(manager, task_id)
    assert seen == [(task_id, "look", 0, {"n": "1"}, "from the caller")]


def test_outside_a_task_there_is_no_context() -> None:
    assert get_task_context() is None


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_task_log_is_kept_in_order_with_level_extra_and_attempt(executor: str, tmp_path: Path) -> None:
    observer = InMemoryLogger()
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", loggers=[observer])

    def say() -> None:
        task_log("first", size=3)
        task_log("second", level="warning")
        if get_task_context().attempt == 0:
            raise ValueError("again")

    async def say_in_the_loop() -> None:
        say()

    job: Callable[[], Any] = manager.task(retries=1, name="say", executor=executor)(  # type: ignore[arg-type]
        say_in_the_loop if executor == "async" else say
    )
    async with started(manager):
        task_id = await manager.enqueue(job)
        await finish(manager, task_id)
        entries = await manager.engine.logs(task_id)
    expected = [("first", "info", {"size": 3}), ("second", "warning", {})]
    assert [(e.message, e.level, e.extra) for e in entries] == expected * 2
    assert [e.attempt for e in entries] == [0, 0, 1, 1]
    assert [e.seq for e in entries] == sorted(e.seq for e in entries)
    assert observer.messages == ["first", "second"] * 2


async def test_task_log_outside_a_task_goes_to_the_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "taskflow_otel.task"):
        task_log("no task here", level="warning", order=7)
    [record] = caplog.records
    assert (record.name, record.levelname, record.message) == ("taskflow_otel.task", "WARNING", "no task here")
    assert record.__dict__["taskflow"] == {"order": 7}


async def test_captured_logging_becomes_the_log_of_the_task_that_wrote_it() -> None:
    observer = InMemoryLogger()
    manager = TaskManager(capture_logs=True, loggers=[observer])

    async def chat() -> None:
        logging.getLogger("shop").warning("low on %s", "tea")

    async with started(manager):
        task_id = await manager.enqueue(chat)
        await finish(manager, task_id)
        logging.getLogger("shop").warning("nobody's")
    assert [(e.task_id, e.message, e.level) for e in observer.log_events] == [(task_id, "low on tea", "warning")]


async def test_progress_is_shown_while_the_task_runs(manager: TaskManager) -> None:
    gate = Gate()

    async def work() -> None:
        get_task_context().progress(3, 10, message="pages")
        await gate.run()

    task_id = await manager.enqueue(work)
    await gate.entered.wait()
    progress = (await manager.get(task_id)).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (3, 10, "pages")
    gate.opened.set()
