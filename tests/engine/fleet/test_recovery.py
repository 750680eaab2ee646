"""What happens to tasks that were taken over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskflow_otel import TaskManager, TaskRecord, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change, Update
from taskflow_otel.errors import BackendUnavailableError
from tests.managers import WAIT, started, status_of, transitions


class Locked(MemoryBackend):
    """A durable backend in which another transaction locks the rows of some tasks."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.locked: set[str] = set()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all changes, or none."""
        if any(isinstance(change, Update) and change.record.task_id in self.locked for change in changes):
            raise BackendUnavailableError("the row is locked", divisible=True)
        return await super().apply(changes)


async def test_a_task_whose_row_is_locked_keeps_no_other_task_of_its_takeover_waiting() -> None:
    backend = Locked()

    def make_manager() -> TaskManager:
        manager = TaskManager(snapshot_backend=backend)
        manager.task(persist=True, name="job")(_nothing)
        return manager

    first = make_manager()
    async with started(first):
        await first.pause_queue("default")
        locked, *others = [await first.enqueue(_nothing) for _ in range(5)]
    backend.locked = {locked}
    second = make_manager()
    async with started(second):
        await second.resume_queue("default")
        for task_id in others:
            assert (await second.wait(task_id, WAIT)).status is TaskStatus.SUCCESS
        assert await status_of(second, locked) is TaskStatus.PENDING
        backend.locked.clear()
        assert (await second.wait(locked, WAIT)).status is TaskStatus.SUCCESS


class Twice(MemoryBackend):
    """A durable backend that names each task twice in the answer to a takeover."""

    def __init__(self) -> None:
        super().__init__(durable=True)

    async def take_over(self, *args: Any, **kwargs: Any) -> list[TaskRecord]:
        """See `Backend`."""
        taken = await super().take_over(*args, **kwargs)
        return [*taken, *(record.copy() for record in taken)]


async def test_a_task_that_comes_to_an_instance_in_two_ways_is_decided_once() -> None:
    backend, ran = Twice(), list[str]()

    async def job() -> None:
        ran.append("job")

    first, second = (TaskManager(snapshot_backend=backend) for _ in range(2))
    for manager in (first, second):
        manager.task(persist=True, name="job")(job)
    async with started(first):
        await first.pause_queue("default")
        task_id = await first.enqueue(job)
    async with started(second):
        await second.resume_queue("default")
        record = await second.wait(task_id, WAIT)
    assert (transitions(record), ran) == (["enqueued", "recovered", "started", "succeeded"], ["job"])


async def _nothing() -> None:
    """A job."""
