"""What the tasks of other instances do is passed on once, and only while someone watches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.engine.fleet.fleet_watch import FleetWatch
from taskflow_otel.model.record import Progress, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import finish, make_task
from taskflow_otel.testing.clock import FakeClock
from tests.engine.membership import Alone


class Watched:
    """A service that watches a backend, on which others work."""

    def __init__(self) -> None:
        self.clock = FakeClock(datetime.now(UTC))  # a backend notes changes by the real time
        self.backend = MemoryBackend(durable=True)
        self.own = Alone(clock=self.clock)
        self.somebody = True
        self.seen: list[tuple[str, str]] = []
        self.here: dict[str, TaskRecord] = {}
        self.service = FleetWatch(
            self.backend,
            self.clock,
            1.0,
            self.own,
            lambda: self.somebody,
            self.tell,
            lambda task_id: self.here.get(task_id),
        )

    def tell(self, record: TaskRecord) -> None:
        self.seen.append((record.task_id, str(record.status)))

    async def look(self) -> list[tuple[str, str]]:
        """What one look finds."""
        self.seen.clear()
        await self.service.tick()
        return list(self.seen)

    def task(self, instance: str = "other") -> TaskRecord:
        """A task that is created now."""
        return make_task(instance=instance, created_at=self.clock.now())


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    await watched.backend.open()
    yield watched
    await watched.backend.close()


async def test_each_change_of_another_instance_is_passed_on_once(watched: Watched) -> None:
    assert await watched.look() == []
    task = watched.task()
    await watched.backend.apply([Insert(task)])
    assert await watched.look() == [(task.task_id, "pending")]
    assert await watched.look() == []
    ended = finish(task)
    ended.timeline += (ended.timeline[0],)
    await watched.backend.apply([Update(ended)])
    assert await watched.look() == [(task.task_id, "success")]


async def test_its_own_tasks_are_not_passed_on(watched: Watched) -> None:
    await watched.look()
    await watched.backend.apply([Insert(watched.task(watched.own.instance.instance_id))])
    assert await watched.look() == []


async def test_a_request_to_cancel_is_a_change_although_nothing_has_happened_yet(watched: Watched) -> None:
    await watched.look()
    task = watched.task()
    await watched.backend.apply([Insert(task)])
    await watched.look()
    await watched.backend.request_cancel(task.task_id)
    assert await watched.look() == [(task.task_id, "pending")]


async def test_progress_is_passed_on_although_the_timeline_does_not_grow(watched: Watched) -> None:
    await watched.look()
    task = watched.task()
    task.status, task.progress = TaskStatus.RUNNING, Progress(1, 2)
    await watched.backend.apply([Insert(task)])
    assert len(await watched.look()) == 1
    assert len(await watched.look()) == 1


async def test_while_nobody_watches_nothing_is_asked_and_nothing_of_that_time_is_shown_later(watched: Watched) -> None:
    await watched.look()
    watched.somebody = False
    await watched.backend.apply([Insert(watched.task())])
    assert await watched.look() == []
    await watched.clock.advance(60)
    watched.somebody = True
    assert await watched.look() == []


async def test_a_change_whose_commit_took_long_is_passed_on_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, changed_since, visible = watched.task(), watched.backend.changed_since, False

    async def committed_since(*args: Any, **kwargs: Any) -> list[TaskRecord]:
        return [record for record in await changed_since(*args, **kwargs) if visible]

    monkeypatch.setattr(watched.backend, "changed_since", committed_since)
    await watched.look()
    # Its transaction dates the change now, and is committed eight seconds later.
    await watched.backend.apply([Insert(task)])
    seen = list[tuple[str, str]]()
    for second in range(20):
        visible = second >= 8
        await watched.clock.advance(1)
        seen += await watched.look()
    assert seen == [(task.task_id, "pending")]


async def test_a_slow_answer_is_not_passed_on_after_what_this_process_has_done_since(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, other, changed_since = watched.task(), watched.task(), watched.backend.changed_since

    async def slowly(*args: Any, **kwargs: Any) -> list[TaskRecord]:
        found = await changed_since(*args, **kwargs)
        # This process has taken the task over, and the other one from it.
        mine, given = task.copy(), other.copy()
        mine.token += 1
        given.token -= 1
        watched.here = {mine.task_id: mine, given.task_id: given}
        return found

    await watched.look()
    await watched.backend.apply([Insert(task), Insert(other)])
    monkeypatch.setattr(watched.backend, "changed_since", slowly)
    assert await watched.look() == [(other.task_id, "pending")]
