"""The rounds in which time limits of tasks in the pool are judged: what they read, and in which order they judge."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskflow_otel import SLO
from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.fleet import pool_objectives
from taskflow_otel.engine.fleet.pool_objectives import PoolObjectives
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.phase import Step
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.testing.clock import FakeClock

WITHIN = 30.0


class Pooled:
    """A pool of tasks, the newest first, in pages of two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_objectives, "_PAGE", 2)
        self.clock = FakeClock()
        self.records: list[TaskRecord] = []
        self.reads = 0
        self.judged: list[str] = []
        self.given: list[str] = []
        self.stopped: list[str] = []
        self.taken: set[str] = set()
        self.fails_at = ""
        waiting = {"default"}
        self.rounds = PoolObjectives(
            self,  # type: ignore[arg-type]  # the two methods of an ObjectiveWatch that it uses
            self.page,
            lambda: waiting,
            self,
            self.stop,
            self.clock,
            1.0,
        )

    def declared(self) -> dict[str, SLO]:
        return {"send": SLO(success=0.9, within=WITHIN), "any success": SLO(success=0.9)}

    def add(self, number: int, *, due_in: float = -1.0) -> TaskRecord:
        """Add an older task whose time limit passes in `due_in` seconds."""
        now = self.clock.now()
        due = now + timedelta(seconds=due_in)
        record = make_task(task_id=f"task-{number}", instance=POOL, created_at=now - timedelta(seconds=WITHIN + number))
        record.timeline = (TimelineEntry(Transition.ENQUEUED, record.created_at, 0, "web", due_at=due),)
        self.records.append(record)
        return record

    async def page(self, query: TaskQuery) -> TaskPage:
        assert query.func_name == "send"
        assert query.until is not None
        self.reads += 1
        first = 0 if query.cursor is None else int(query.cursor)
        there = [one for one in self.records if one.created_at < query.until]
        following = first + query.limit
        return TaskPage(there[first:following], str(following) if following < len(there) else None)

    async def claim_one(self, task_id: str) -> LiveTask | None:
        if task_id in self.taken:
            return None
        record = next(one for one in self.records if one.task_id == task_id)
        task = LiveTask(record, None, None, None, None, durable=True)  # type: ignore[arg-type]  # needs no definition
        task.advance(Step.KNOWN)
        return task

    def share(self, task: LiveTask) -> None:
        self.given.append(task.id)

    async def judge(self, task: LiveTask) -> None:
        if task.id == self.fails_at:
            raise BackendUnavailableError("not now")
        self.judged.append(task.id)
        task.record.timeline += (TimelineEntry(Transition.OBJECTIVE_MISSED, self.clock.now(), 0, "here"),)

    async def stop(self, task: LiveTask, reason: Reason) -> None:
        assert reason is Reason.CANCELLED
        self.stopped.append(task.id)
        task.advance(Step.LEAVE)

    async def round(self) -> list[str]:
        """The tasks that one round judges."""
        self.judged, self.reads = [], 0
        await self.rounds.tick()
        return self.judged


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> Pooled:
    return Pooled(monkeypatch)


async def test_the_oldest_are_judged_first_and_a_later_round_reads_one_page(pooled: Pooled) -> None:
    for number in range(1, 6):
        pooled.add(number)
    assert await pooled.round() == ["task-5", "task-3", "task-4", "task-1", "task-2"]
    assert sorted(pooled.given) == [f"task-{number}" for number in range(1, 6)]
    assert await pooled.round() == []
    assert pooled.reads == 1


async def test_what_a_failed_round_leaves_is_judged_by_the_next_one(pooled: Pooled) -> None:
    for number in range(1, 6):
        pooled.add(number)
    pooled.fails_at = "task-4"
    with pytest.raises(BackendUnavailableError):
        await pooled.round()
    assert sorted(pooled.judged) == ["task-3", "task-5"]
    assert "task-4" in pooled.given, "a task goes back into the pool whatever happens"
    pooled.fails_at = ""
    assert sorted(await pooled.round()) == ["task-1", "task-2", "task-4"]


async def test_one_that_was_delayed_on_purpose_is_found_by_a_round_that_reads_everything(pooled: Pooled) -> None:
    for number in range(1, 5):
        pooled.add(number)
    delayed = pooled.add(5, due_in=WITHIN)
    assert delayed.task_id not in await pooled.round()
    await pooled.clock.advance(WITHIN + 1)
    assert await pooled.round() == []
    await pooled.clock.advance(60)
    assert await pooled.round() == [delayed.task_id]


async def test_a_task_that_another_instance_has_is_left_to_it_and_a_cancelled_one_is_cancelled(pooled: Pooled) -> None:
    cancelled, other, owned = pooled.add(1), pooled.add(2), pooled.add(3)
    cancelled.cancel_requested = True
    pooled.taken.add(other.task_id)
    owned.instance = "worker"
    assert await pooled.round() == []
    assert (pooled.stopped, pooled.given) == ([cancelled.task_id], [])
