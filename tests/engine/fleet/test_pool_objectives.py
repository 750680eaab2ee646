"""The rounds in which time limits of tasks in the pool are judged: what they read, and in which order they judge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
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
from tests.engine.membership import Alone

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
        self.membership = Alone()
        self.here = self.membership.instance.instance_id
        self.living = {self.here}
        waiting = {"default"}
        self.rounds = PoolObjectives(
            self,  # type: ignore[arg-type]  # the two methods of an ObjectiveWatch that it uses
            self.page,
            self.read,
            self.alive,
            self.membership,
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

    async def read(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        return {one.task_id: one for one in self.records if one.task_id in task_ids}

    async def alive(self) -> set[str]:
        return self.living

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
        task.record.timeline += (TimelineEntry(Transition.OBJECTIVE_MISSED, self.clock.now(), 0, self.here),)

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


async def test_one_that_was_delayed_on_purpose_is_found_in_time_by_who_gave_it_to_the_pool(pooled: Pooled) -> None:
    for number in range(1, 5):
        pooled.add(number)
    delayed, soon = pooled.add(5, due_in=WITHIN), pooled.add(6, due_in=WITHIN)
    for record in (delayed, soon):
        record.run_at = record.created_at
        pooled.rounds.remember(record)
    # The line can be written twice as little as for others.
    soon.timeline += (TimelineEntry(Transition.OBJECTIVE_MISSED, pooled.clock.now(), 0, "other"),)
    pooled.rounds.remember(soon)
    await pooled.round()
    await pooled.clock.advance(WITHIN + 1)
    pooled.fails_at = delayed.task_id
    with pytest.raises(BackendUnavailableError):
        await pooled.round()
    pooled.fails_at = ""
    assert await pooled.round() == [delayed.task_id]
    assert await pooled.round() == []


async def test_late_tasks_in_the_pool_are_counted_by_one_instance(pooled: Pooled) -> None:
    # More than one round looks after.
    mine = [pooled.add(number) for number in range(1, 6)]
    others = [pooled.add(number) for number in range(6, 8)]
    for record in others:
        record.timeline += (TimelineEntry(Transition.OBJECTIVE_MISSED, pooled.clock.now(), 0, "other"),)
    pooled.living.add("other")
    await pooled.round()
    assert pooled.rounds.overdue() == {"send": 5}
    await pooled.clock.advance(60)
    await pooled.round()
    assert pooled.rounds.overdue() == {"send": 5}, "the other one counts its own"

    mine[0].instance = "worker"
    pooled.records.remove(mine[1])
    for _ in range(3):
        await pooled.round()
    assert pooled.rounds.overdue() == {"send": 3}

    pooled.living = {pooled.here, f"{pooled.here}-later"}
    await pooled.clock.advance(60)
    await pooled.round()
    assert pooled.rounds.overdue() == {"send": 5}, "it has ended, and this one is the first of the living"

    pooled.membership.instance = replace(pooled.membership.instance, instance_id="0-a-new-life")
    await pooled.round()
    assert pooled.rounds.overdue() == {}
    pooled.living = {"0-a-new-life"}
    await pooled.clock.advance(60)
    await pooled.round()
    assert pooled.rounds.overdue() == {"send": 5}


async def test_a_task_that_another_instance_has_is_left_to_it_and_a_cancelled_one_is_cancelled(pooled: Pooled) -> None:
    cancelled, other, owned = pooled.add(1), pooled.add(2), pooled.add(3)
    cancelled.cancel_requested = True
    pooled.taken.add(other.task_id)
    owned.instance = "worker"
    assert await pooled.round() == []
    assert (pooled.stopped, pooled.given) == ([cancelled.task_id], [])


async def test_a_late_task_at_which_another_instance_looks_for_a_moment_is_counted_again(pooled: Pooled) -> None:
    record = pooled.add(1)
    await pooled.round()
    record.instance = "other"
    await pooled.round()
    assert pooled.rounds.overdue() == {}, "the other one counts what it runs"
    record.instance = POOL
    await pooled.round()
    assert pooled.rounds.overdue() == {"send": 1}
    record.instance = "other"
    for _ in range(2):
        await pooled.round()
    record.instance = POOL
    await pooled.round()
    assert pooled.rounds.overdue() == {}, "it had it for longer than a moment"


async def test_a_late_task_is_counted_on_its_way_back_to_the_pool(
    pooled: Pooled, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = asyncio.Event()

    async def arrival() -> None:
        await arrived.wait()

    def share(task: LiveTask) -> None:
        task.arrival = asyncio.create_task(arrival())

    monkeypatch.setattr(pooled, "share", share)
    record = pooled.add(1)
    await pooled.round()
    record.instance = pooled.here
    for _ in range(3):
        await pooled.round()
    assert pooled.rounds.overdue() == {"send": 1}
    record.instance = POOL
    arrived.set()
    await asyncio.sleep(0)
    await pooled.round()
    assert pooled.rounds.overdue() == {"send": 1}


async def test_one_that_another_instance_judged_since_it_was_read_is_counted_by_that_one(
    pooled: Pooled, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = pooled.claim_one

    async def second(task_id: str) -> LiveTask | None:
        [record] = pooled.records
        record.timeline += (TimelineEntry(Transition.OBJECTIVE_MISSED, pooled.clock.now(), 0, "other"),)
        return await claim(task_id)

    monkeypatch.setattr(pooled, "claim_one", second)
    record = pooled.add(1)
    assert await pooled.round() == []
    assert pooled.given == [record.task_id]
    assert pooled.rounds.overdue() == {}
