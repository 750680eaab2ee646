"""A round of what is due, in a process in which nothing happens by itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taskflow_otel import SLO, NotStartedError, QueueConfig, TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.deployment import RUN
from taskflow_otel.testing.clock import FakeClock, settle
from tests.managers import WAIT, Gate, finish, started, transitions
from tests.waiting import eventually

RARELY = 3600.0


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> MemoryBackend:
    monkeypatch.setattr("taskflow_otel.engine.fleet.pool.POLL", RARELY)
    return MemoryBackend(durable=True)


def member(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, run: str) -> TaskManager:
    monkeypatch.setenv(RUN, run)
    return TaskManager(snapshot_backend=backend, queues={"default": QueueConfig(concurrency=2, run="pool")})


async def test_a_round_runs_what_is_in_the_pool_and_the_retries_that_are_due(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[int]()

    async def work(number: int) -> None:
        tries.append(number)
        if number == 0 and tries.count(0) == 1:
            raise RuntimeError("again")

    web, frozen = member(backend, monkeypatch, "none"), member(backend, monkeypatch, "pool")
    for one in (web, frozen):
        one.task(persist=True, name="work", retries=1, delay=0.05)(work)
    async with started(web), started(frozen):
        ids = [await web.enqueue(work, number) for number in range(5)]
        total = 0
        while len(tries) < 6:
            done = await frozen.engine.ticks.tick(5)
            assert done.left == 0
            total += done.started
        assert total == 6
        assert sorted(tries) == [0, 0, 1, 2, 3, 4]
        for task_id in ids:
            await finish(web, task_id)


async def test_a_round_ends_after_its_time_and_says_what_is_left(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    manager = member(backend, monkeypatch, "pool")
    manager.task(persist=True, name="work")(gate.run)
    with pytest.raises(NotStartedError):
        await manager.engine.ticks.tick(1)
    async with started(manager):
        task_id = await manager.enqueue(gate.run)
        await asyncio.wait_for(gate.entered.wait(), 20)
        assert await manager.engine.ticks.tick(0.01) == (0, 1)
        ending = asyncio.ensure_future(manager.engine.ticks.tick(20))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await ending == (0, 0)
        await finish(manager, task_id)
        assert await manager.engine.ticks.tick(20) == (0, 0)


async def test_a_round_judges_the_time_limits_that_have_passed_in_the_pool(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN, "none")
    clock = FakeClock()

    async def work() -> None: ...

    def life() -> TaskManager:
        queues = {"default": QueueConfig(run="pool")}
        manager = TaskManager(snapshot_backend=backend, clock=clock, queues=queues)
        manager.task(persist=True, name="work", slo=SLO(success=0.9, within=5))(work)
        return manager

    async with started(life()) as first:
        task_id = await first.enqueue(work)

        async def pooled() -> bool:
            return (await first.get(task_id)).instance == POOL

        await eventually(pooled, "the gift", interval=0.002)
    await clock.advance(6)
    # Its clock stands still: none of its services has a round of its own.
    async with started(life()) as frozen:
        await frozen.engine.ticks.tick(0)
        assert transitions(await frozen.get(task_id)) == ["enqueued", "objective_missed"]
        assert frozen.engine.objectives.overdue() == {"work": 1}


class FrozenClock(FakeClock):
    """The clock of a platform that gives a process no time between two requests."""

    def freeze(self, seconds: float, *, monotonic: bool) -> None:
        """Let time pass in which nothing runs; the monotonic clock of some hosts stands still then."""
        self._wall += timedelta(seconds=seconds)
        self._monotonic += seconds * monotonic


async def tick(clock: FakeClock, manager: TaskManager) -> tuple[int, int]:
    """One round, during which time passes."""
    round_ = asyncio.ensure_future(manager.engine.ticks.tick(30))
    while not round_.done():
        await clock.advance(0.01)
    return round_.result()


@pytest.mark.parametrize("monotonic", [True, False], ids=["the clock went on", "the monotonic clock stood still"])
async def test_schedules_planned_runs_and_delays_that_became_due_in_a_freeze_run_in_the_next_round(
    monotonic: bool,
) -> None:
    clock, ran = FrozenClock(), list[str]()
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=True), clock=clock)

    @manager.schedule(every=60, catch_up="latest")
    async def report() -> None:
        ran.append("report")

    @manager.task(persist=True)
    async def note(what: str) -> None:
        ran.append(what)

    async with started(manager):
        await settle()
        assert await tick(clock, manager) == (0, 0)
        await manager.schedule_once(note, "planned", run_at=clock.now() + timedelta(minutes=10))
        await manager.schedule_once(note, "much later", run_at=clock.now() + timedelta(hours=5))
        await manager.enqueue(note, "delayed", delay=600)
        clock.freeze(3600, monotonic=monotonic)
        assert await tick(clock, manager) == (3, 0)
        assert sorted(ran) == ["delayed", "planned", "report"]
        # What was done is not done again.
        assert await tick(clock, manager) == (0, 0)
        clock.freeze(61, monotonic=monotonic)
        assert await tick(clock, manager) == (1, 0)
        # The wall clock is set back: nothing is due, and nothing runs a second time.
        clock.set_wall(clock.now() - timedelta(seconds=50))
        assert await tick(clock, manager) == (0, 0)
    assert ran[-1] == "report"
    assert ran.count("report") == 2


async def test_what_was_missed_before_the_start_runs_in_the_first_round() -> None:
    """A platform ends idle processes, and starts one for the request of the round."""
    clock, backend, ran = FrozenClock(), MemoryBackend(durable=True), list[int]()

    def process() -> TaskManager:
        manager = TaskManager(snapshot_backend=backend, clock=clock)

        @manager.schedule(every=60, catch_up="latest")
        async def report() -> None:
            ran.append(1)

        return manager

    async with started(process()) as manager:
        await settle()
        clock.freeze(61, monotonic=True)
        assert await tick(clock, manager) == (1, 0)
    clock.freeze(3600, monotonic=True)
    async with started(process()) as manager:
        assert await tick(clock, manager) == (1, 0)
    assert len(ran) == 2


async def test_rounds_at_the_same_time_run_everything_once(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = list[int]()

    async def work(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(0)

    web, *frozen = (member(backend, monkeypatch, run) for run in ("none", "pool", "pool"))
    for one in (web, *frozen):
        one.task(persist=True, name="work")(work)
    async with started(web), started(frozen[0]), started(frozen[1]):
        ids = [await web.enqueue(work, number) for number in range(30)]

        async def all_given() -> bool:
            return all([(await web.get(task_id)).instance != web.engine.instance_id for task_id in ids])

        await eventually(all_given, "the gifts")
        rounds = await asyncio.gather(*(one.engine.ticks.tick(20) for one in frozen * 2))
        assert [done.left for done in rounds] == [0] * 4
        for task_id in ids:
            await finish(web, task_id)
    assert sorted(ran) == list(range(30))


async def test_a_round_during_a_drain_ends_with_it_and_a_new_one_is_refused(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    manager = member(backend, monkeypatch, "pool")
    manager.task(persist=True, name="work")(gate.run)
    async with started(manager):
        running, waiting = [await manager.enqueue(gate.run) for _ in range(2)], await manager.enqueue(gate.run)
        await asyncio.wait_for(gate.entered.wait(), WAIT)
        round_ = asyncio.ensure_future(manager.engine.ticks.tick(60))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(manager.shutdown())
        done = await asyncio.wait_for(round_, WAIT)
        assert done.left >= 2
        with pytest.raises(NotStartedError):
            await manager.engine.ticks.tick(1)
        gate.opened.set()
        await stopping
        stored = await backend.get_all([*running, waiting])
    # Those that ran were let finish; the other one is left to the next process.
    assert {stored[task_id].status for task_id in running} == {TaskStatus.SUCCESS}
    assert stored[waiting].status is TaskStatus.PENDING
