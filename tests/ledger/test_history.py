"""History of tasks that are not persisted: complete, whatever the backend drops or does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend, SqliteBackend
from taskflow_otel.backends.base import APPENDED, Applied, Backend, Change
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import TaskQuery
from tests.ledger.fleet import Fleet
from tests.managers import Gate, finish, started
from tests.waiting import eventually

MANY, KEPT = 3_000, 100


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_of_many_tasks_of_one_process_no_history_is_refused_while_the_backend_drops_the_oldest(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A backend in memory drops what has finished: a task whose end it saw early would be gone before its last note."""
    caplog.set_level(logging.WARNING, "taskflow_otel")
    backend: Backend = MemoryBackend(KEPT) if kind == "memory" else SqliteBackend(tmp_path / "tasks.db")
    manager = TaskManager(snapshot_backend=backend, snapshot_interval=0.01)

    @manager.task()
    async def job(number: int) -> None:
        await asyncio.sleep(0)

    async with started(manager):
        for number in range(MANY):
            await manager.enqueue(job, number)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: not manager.store.list(), "the end of all tasks")
        counts = await manager.engine.lookup.counts(TaskQuery())
        assert counts.by_status == {TaskStatus.SUCCESS: KEPT if kind == "memory" else MANY}
    assert [found.getMessage() for found in caplog.records if found.name == "taskflow_otel.ledger"] == []


async def test_a_task_whose_first_note_was_stored_without_an_answer_is_stored_with_its_end(fleet: Fleet) -> None:
    manager, gate = fleet.manager(), Gate()
    lost: list[str] = []
    inner = fleet.wires[manager].backend
    really_apply = inner.apply

    async def apply(changes: Sequence[Change]) -> list[Applied]:
        answer = await really_apply(changes)
        records = [change.record for change in changes if not isinstance(change, APPENDED)]
        noted = [record.task_id for record in records if record.status is TaskStatus.RUNNING]
        if noted and not lost:
            lost.extend(noted)
            gate.opened.set()
            raise BackendUnavailableError("the answer was lost")
        return answer

    inner.apply = apply  # type: ignore[method-assign]  # the instance's own
    task = manager.task(name="waits")(gate.run)
    await fleet.start(manager)
    task_id = await manager.enqueue(task)
    await eventually(lambda: lost == [task_id], "the lost answer")
    await finish(manager, task_id)

    async def is_stored() -> bool:
        await manager.engine.lookup.page(TaskQuery())
        stored = await fleet.storage.get(task_id)
        return stored is not None and stored.status is TaskStatus.SUCCESS

    await eventually(is_stored, "the end of the task in the ledger")
