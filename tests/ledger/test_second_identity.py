"""A process that was declared dead continues under a new id: what it did before is published and counted once.

Its last commit was applied, and the answer comes late: after others have taken its tasks over and added up its counts.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from taskflow_otel import InMemoryLogger, TaskManager
from taskflow_otel.metrics.books import COUNTS
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import Transition
from taskflow_otel.testing.clock import FakeClock
from tests.ledger.fleet import Fleet
from tests.ledger.test_lost_answers import Scene, lines
from tests.managers import WAIT, finish
from tests.waiting import eventually

LATE = [Transition.ENQUEUED, Transition.STARTED, Transition.RETRY_SCHEDULED]


async def is_folded(fleet: Fleet) -> bool:
    """Whether the counts of all but one instance are in the sum of the dead."""
    return sum('"instance"' in stored for stored in (await fleet.storage.settings(COUNTS)).values()) == 1


async def die(fleet: Fleet, manager: TaskManager) -> None:
    """Let a manager be declared dead and its counts be added up."""
    await fleet.die(manager)
    await eventually(lambda: is_folded(fleet), "the sum of the dead")


async def come_back(fleet: Fleet, manager: TaskManager) -> None:
    """Let a manager that was cut off reach the storage again, and join under a new id."""
    former = manager.engine.instance_id
    fleet.wires[manager].cut = False

    async def has_joined() -> bool:
        stored = "".join((await fleet.storage.settings(COUNTS)).values())
        return manager.engine.instance_id != former and f'"instance": "{manager.engine.instance_id}"' in stored

    await eventually(has_joined, "a new id")


@pytest.fixture
def scene(fleet: Fleet) -> Scene:
    return Scene(fleet, commit_timeout=WAIT)


async def until_the_answer_is_due(scene: Scene, late: Transition) -> tuple[asyncio.Task[str], TaskRecord]:
    """The one has a new id and an outstanding answer; the other has run its task."""
    fleet, wire = scene.fleet, scene.fleet.wires[scene.one]
    await fleet.start(scene.one)
    wire.slow_words = late
    enqueuing = asyncio.create_task(scene.one.enqueue(scene.jobs[0]))
    await asyncio.wait_for(wire.waiting.wait(), WAIT)
    record = await scene.take_over()
    await eventually(lambda: is_folded(fleet), "the sum of the dead")
    await come_back(fleet, scene.one)
    return enqueuing, record


@pytest.mark.parametrize("deaths", [1, 2])
@pytest.mark.parametrize("late", LATE)
async def test_an_answer_that_comes_after_the_burial_is_counted_once(
    scene: Scene, late: Transition, deaths: int
) -> None:
    enqueuing, record = await until_the_answer_is_due(scene, late)
    for _ in range(deaths - 1):
        await die(scene.fleet, scene.one)
        await come_back(scene.fleet, scene.one)
    scene.fleet.wires[scene.one].answer.set()
    await asyncio.wait_for(enqueuing, WAIT)
    await eventually(lambda: scene.lines_told() == lines(record), "all lines of the timeline, each published once")
    await scene.agree(scene.one)
    await scene.agree(scene.other)


@pytest.mark.parametrize("late", LATE)
async def test_one_that_dies_again_before_the_answer_is_counted_once(scene: Scene, late: Transition) -> None:
    enqueuing, _ = await until_the_answer_is_due(scene, late)
    await die(scene.fleet, scene.one)
    await scene.agree(scene.other)
    scene.fleet.wires[scene.one].answer.set()
    enqueuing.cancel()
    await asyncio.wait({enqueuing})


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "comes back"])
@pytest.mark.parametrize("late", [Transition.ENQUEUED, Transition.STARTED])
async def test_a_change_that_arrives_after_the_burial_is_refused_and_is_in_nobodys_counts(
    scene: Scene, late: Transition, dies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fleet, wire = scene.fleet, scene.fleet.wires[scene.one]
    await fleet.start(scene.one)
    former = scene.one.engine.instance_id
    wire.late_words = late
    enqueuing = asyncio.create_task(scene.one.enqueue(scene.jobs[0]))
    await asyncio.wait_for(wire.waiting.wait(), WAIT)
    await fleet.die(scene.one)
    await fleet.start(scene.other)
    if late is Transition.STARTED:
        await finish(scene.other, await enqueuing)
    await eventually(lambda: is_folded(fleet), "the sum of the dead")
    before = await fleet.records(TaskQuery())
    # It has no other sign of its death: its lease seems to hold.
    wire.cut = dies
    wire.answer.set()
    await eventually(lambda: "was declared dead (it was paused" in caplog.text, "the refusal")
    if dies:
        assert await fleet.records(TaskQuery()) == before
        enqueuing.cancel()
        await asyncio.wait({enqueuing})
    else:
        task_id = await asyncio.wait_for(enqueuing, WAIT)
        assert scene.one.engine.instance_id != former
        # The request was answered by one that lives: its task is stored under the new id, and runs there.
        record = await finish(scene.one if late is Transition.ENQUEUED else scene.other, task_id)
        assert {line.instance for line in record.timeline[1:]} == {record.instance}
        assert (record.timeline[0].instance == former) is (late is Transition.STARTED)
        await eventually(lambda: scene.lines_told() == lines(record), "all lines of the timeline, each published once")
        await scene.agree(scene.one)
    await scene.agree(scene.other)


async def test_the_end_of_a_task_that_was_taken_over_is_published_after_a_second_takeover_of_its_owner(
    fleet: Fleet,
) -> None:
    entered, told = asyncio.Event(), InMemoryLogger()

    async def wait() -> None:
        entered.set()
        await asyncio.Event().wait()

    one, other, third = (fleet.manager(loggers=[told]) for _ in range(3))
    waits = [manager.task(name="waits", persist=True)(wait) for manager in (one, other, third)]
    await fleet.start(one)
    await one.enqueue(waits[0])
    await asyncio.wait_for(entered.wait(), WAIT)
    await fleet.start(other)
    wire = fleet.wires[other]
    wire.slow_words = Transition.INTERRUPTED
    await fleet.die(one)
    await asyncio.wait_for(wire.waiting.wait(), WAIT)
    await fleet.start(third)
    await die(fleet, other)
    await come_back(fleet, other)
    wire.answer.set()
    [record] = await fleet.records(TaskQuery(func_name="waits"))

    def published() -> Counter[tuple[str, int, str]]:
        return Counter((event.transition, event.attempt, event.instance) for event in told.lifecycle_events)

    await eventually(lambda: published() == lines(record), "all lines of the timeline, each published once")
    scene = Scene(fleet, commit_timeout=WAIT)
    await scene.agree(other)
    await scene.agree(third)


class Freezable(FakeClock):
    """A clock of a process that can be stopped."""

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which no timer is called."""
        self._move_to(self.monotonic() + seconds)


async def test_a_request_whose_task_another_instance_has_run_is_not_refused_after_a_pause(fleet: Fleet) -> None:
    clock, ran = Freezable(), asyncio.Event()

    async def job() -> None:
        ran.set()

    paused, other = fleet.manager(clock=clock, commit_timeout=1.5), fleet.manager()
    for manager in (paused, other):
        manager.task(name="job", persist=True)(job)
    await fleet.start(paused)
    # What it does now is later than what it has stored.
    await clock.advance(0.5)
    wire = fleet.wires[paused]
    wire.slow_words = Transition.ENQUEUED
    enqueuing = asyncio.create_task(paused.enqueue(job))
    await asyncio.wait_for(wire.waiting.wait(), WAIT)
    await fleet.die(paused)
    await fleet.start(other)
    await asyncio.wait_for(ran.wait(), WAIT)
    clock.stand_still(60)
    # Its deadline is over. It cannot know yet that it was declared dead.
    await clock.advance(0)
    assert not enqueuing.done()
    wire.cut = False
    wire.answer.set()
    [record] = await fleet.records(TaskQuery(func_name="job"))
    assert await asyncio.wait_for(enqueuing, WAIT) == record.task_id
    await Scene(fleet, commit_timeout=WAIT).agree(other, before_each_look=lambda: clock.advance(1))
