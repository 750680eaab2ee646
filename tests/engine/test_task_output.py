"""What running tasks say of themselves: log entries and progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import (
    InMemoryLogger,
    TaskManager,
    task_log,
)
from taskflow_otel.engine.ledger.backlog import MAX_BATCH
from tests.inside import own_context
from tests.managers import Gate, finish, started
from tests.waiting import eventually


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_task_log_is_kept_in_order_with_level_extra_and_attempt(executor: str, tmp_path: Path) -> None:
    observer = InMemoryLogger()
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", loggers=[observer])

    def say() -> None:
        task_log("first", size=3)
        task_log("second", level="warning")
        if own_context().attempt == 0:
            raise ValueError("again")

    async def say_in_the_loop() -> None:
        say()

    job: Callable[[], Any] = manager.task(retries=1, name="say", executor=executor)(  # type: ignore[arg-type]
        say_in_the_loop if executor == "async" else say
    )
    async with started(manager):
        task_id = await manager.enqueue(job)
        await finish(manager, task_id)
        entries = await manager.engine.lookup.logs(task_id)
    expected = [("first", "info", {"size": 3}), ("second", "warning", {})]
    assert [(e.message, e.level, e.extra) for e in entries] == expected * 2
    assert [e.attempt for e in entries] == [0, 0, 1, 1]
    assert [e.seq for e in entries] == sorted(e.seq for e in entries)
    assert observer.messages == ["first", "second"] * 2


async def test_progress_is_shown_while_the_task_runs(manager: TaskManager) -> None:
    gate = Gate()

    async def work() -> None:
        own_context().progress(3, 10, message="pages")
        await gate.run()

    task_id = await manager.enqueue(work)
    await gate.entered.wait()
    progress = (await manager.get(task_id)).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (3, 10, "pages")
    gate.opened.set()


async def test_no_line_is_lost_when_more_tasks_run_at_once_than_a_transaction_holds() -> None:
    manager, gate, said = TaskManager(snapshot_interval=600), Gate(), list[int]()

    @manager.task()
    async def say() -> None:
        task_log("hello")
        said.append(1)
        await gate.opened.wait()

    async with started(manager):
        ids = [await manager.enqueue(say) for _ in range(2 * MAX_BATCH + 1)]
        await eventually(lambda: len(said) == len(ids), "the line of each")
        assert [len(await manager.engine.lookup.logs(task_id)) for task_id in ids] == [1] * len(ids)
        gate.opened.set()
        for task_id in ids:
            await finish(manager, task_id)
