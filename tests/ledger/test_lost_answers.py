"""A commit whose answer was lost is published exactly once, no matter which instance continues the task."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from taskflow_otel import InMemoryLogger, TaskManager
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.reconcile.compare import reconcile
from tests.ledger.fleet import Fleet
from tests.managers import WAIT, finish
from tests.waiting import eventually

LOST = [Transition.ENQUEUED, Transition.STARTED, Transition.RETRY_SCHEDULED]


class Scene:
    """One manager whose first attempt fails, and another with whom everything succeeds."""

    def __init__(self, fleet: Fleet, commit_timeout: float) -> None:
        self.fleet = fleet
        self.told = InMemoryLogger()
        self.one, self.other = (fleet.manager(loggers=[self.told], commit_timeout=commit_timeout) for _ in range(2))
        self.jobs = [
            manager.task(name="job", persist=True, requeue_on_interrupt=True, retries=1)(job)
            for manager, job in ((self.one, self.fail), (self.other, self.succeed))
        ]

    async def fail(self) -> None:
        raise ValueError("the first attempt")

    async def succeed(self) -> None:
        pass

    async def lose(self, lost: Transition) -> asyncio.Task[str]:
        """Enqueue a task on the one, up to the commit whose answer is lost; the one is thought to be dead then."""
        await self.fleet.start(self.one)
        wire = self.fleet.wires[self.one]
        wire.last_words = lost
        enqueuing = asyncio.create_task(self.one.enqueue(self.jobs[0]))
        await eventually(lambda: wire.cut, "the lost answer")
        return enqueuing

    async def take_over(self) -> TaskRecord:
        """The other declares the one dead, and ends its task."""
        await self.fleet.die(self.one)
        await self.fleet.start(self.other)
        [record] = await self.fleet.records(TaskQuery(func_name="job"))
        return await finish(self.other, record.task_id)

    async def agree(
        self, page_of: TaskManager, *, before_each_look: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Wait until the metrics page of a manager says what the ledger says."""
        found: list[str] = []

        async def agreed() -> bool:
            if before_each_look is not None:
                await before_each_look()
            await page_of.metrics_page.refresh()
            page = page_of.metrics_page.render("text/plain")[0].decode()
            found[:] = map(str, await reconcile(self.fleet.storage, metrics={"page": page}))
            return not found

        try:
            await eventually(agreed, "metrics that agree with the ledger")
        except TimeoutError:
            raise AssertionError("\n".join(found)) from None

    def lines_told(self) -> Counter[tuple[str, int, str]]:
        """The transitions shown by either, except that of a refusal."""
        events = [event for event in self.told.lifecycle_events if event.transition is not Transition.REJECTED]
        return Counter((event.transition, event.attempt, event.instance) for event in events)


def lines(record: TaskRecord) -> Counter[tuple[str, int, str]]:
    return Counter((entry.transition, entry.attempt, entry.instance) for entry in record.timeline)


@pytest.fixture
def scene(fleet: Fleet) -> Scene:
    return Scene(fleet, commit_timeout=WAIT)


@pytest.mark.parametrize("lost", LOST)
async def test_one_that_was_only_cut_off_tells_of_it_when_it_is_back(scene: Scene, lost: Transition) -> None:
    enqueuing = await scene.lose(lost)
    record = await scene.take_over()
    scene.fleet.wires[scene.one].cut = False
    assert await asyncio.wait_for(enqueuing, WAIT) == record.task_id
    await eventually(lambda: scene.lines_told() == lines(record), "all lines of the timeline, each published once")
    await scene.agree(scene.one)
    await scene.agree(scene.other)


@pytest.mark.parametrize("lost", [*LOST, Transition.FAILED])
async def test_of_one_that_has_died_the_others_count_it(scene: Scene, lost: Transition) -> None:
    if lost is Transition.FAILED:
        scene.jobs[0] = scene.one.task(name="brief", persist=True)(scene.fail)
    enqueuing = await scene.lose(lost)
    await scene.fleet.die(scene.one)
    await scene.fleet.start(scene.other)
    await scene.agree(scene.other)
    enqueuing.cancel()
    await asyncio.wait({enqueuing})


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "comes back"])
async def test_a_task_that_was_refused_although_it_was_committed_counts_as_enqueued(fleet: Fleet, dies: bool) -> None:
    scene = Scene(fleet, commit_timeout=0.5)
    enqueuing = await scene.lose(Transition.ENQUEUED)
    with pytest.raises(BackendUnavailableError):
        await enqueuing
    record = await scene.take_over()
    if not dies:
        fleet.wires[scene.one].cut = False
        await eventually(lambda: scene.lines_told() == lines(record), "all lines of the timeline, each published once")
        await scene.agree(scene.one)
    await scene.agree(scene.other)


@pytest.mark.parametrize("runs", [True, False], ids=["runs", "waits"])
async def test_a_task_that_was_refused_although_it_was_committed_is_cancelled_by_who_has_taken_it_over(
    fleet: Fleet, runs: bool
) -> None:
    scene, entered = Scene(fleet, commit_timeout=0.5), asyncio.Event()

    async def last_long() -> None:
        entered.set()
        await asyncio.Event().wait()

    scene.other = fleet.manager(loggers=[scene.told])
    scene.other.task(name="job", persist=True, requeue_on_interrupt=True)(last_long)
    await fleet.start(scene.other)
    if not runs:
        await scene.other.pause_queue("default")
    enqueuing = await scene.lose(Transition.ENQUEUED)
    with pytest.raises(BackendUnavailableError):
        await enqueuing
    await fleet.die(scene.one)
    [record] = await fleet.records(TaskQuery(func_name="job"))
    if runs:
        await asyncio.wait_for(entered.wait(), WAIT)
    fleet.wires[scene.one].cut = False
    assert (await finish(scene.other, record.task_id)).status is TaskStatus.CANCELLED
    assert entered.is_set() is runs
    await scene.agree(scene.other)


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_shutdown_in_the_middle_of_a_recovery_hides_nothing(scene: Scene, in_time: bool) -> None:
    fleet, entered = scene.fleet, asyncio.Event()

    async def wait() -> None:
        entered.set()
        await asyncio.Event().wait()

    third = fleet.manager()
    waits = [manager.task(name="waits", persist=True)(wait) for manager in (scene.one, scene.other, third)]
    await fleet.start(scene.one)
    await scene.one.enqueue(waits[0])
    await asyncio.wait_for(entered.wait(), WAIT)
    await fleet.start(scene.other)
    wire = fleet.wires[scene.other]
    wire.slow_words = Transition.INTERRUPTED
    await fleet.die(scene.one)
    await asyncio.wait_for(wire.waiting.wait(), WAIT)
    stopping = asyncio.create_task(fleet.stop(scene.other))
    if in_time:
        await eventually(lambda: takeovers() == 1, "the end of all recovery but that of the dead")
        wire.answer.set()
    await stopping
    await fleet.start(third)
    await scene.agree(third)


def takeovers() -> int:
    return [task.get_name() for task in asyncio.all_tasks()].count("taskflow-takeover")
