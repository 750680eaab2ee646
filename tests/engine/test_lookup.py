"""What is read of a task is never older than what was shown of it before."""

from __future__ import annotations

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.engine import lookup
from taskflow_otel.model.query import TaskQuery
from tests.managers import Gate, HeldBackend, finish, started
from tests.waiting import eventually


async def test_a_list_on_a_slow_backend_shows_no_older_state_than_the_task_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "_FLUSH_BEFORE_READ", 0.01)
    backend, gate = HeldBackend(), Gate()
    manager = TaskManager(snapshot_backend=backend, snapshot_interval=0.01)
    job = manager.task(name="job")(gate.run)

    async def listed(status: TaskStatus | None = None) -> list[TaskStatus]:
        return [one.status for one in (await manager.engine.lookup.page(TaskQuery(status=status))).records]

    async with started(manager):
        task_id = await manager.enqueue(job)

        async def is_stored() -> bool:
            stored = await backend.get(task_id)
            return stored is not None and stored.status is TaskStatus.RUNNING

        await eventually(is_stored, "the history of the start")
        backend.hold = lambda _: True
        gate.opened.set()
        assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS
        await backend.holding.wait()
        stored = await backend.get(task_id)
        assert stored is not None
        assert stored.status is TaskStatus.RUNNING
        assert await listed() == [TaskStatus.SUCCESS]
        assert await listed(TaskStatus.RUNNING) == []
        backend.release()

        async def has_caught_up() -> bool:
            return await listed(TaskStatus.SUCCESS) == [TaskStatus.SUCCESS]

        await eventually(has_caught_up, "the history of the end")
