"""The time limit of an objective: written once, for each thing that the task may do then, on each owner."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskflow_otel import SLO, InMemoryLogger, LifecycleEvent, TaskManager
from taskflow_otel.backends import Backend, MemoryBackend
from taskflow_otel.backends.base import Change, Update
from taskflow_otel.exporters import signals
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.reconcile.compare import reconcile
from taskflow_otel.testing.clock import FakeClock, settle
from tests.managers import Gate, HeldBackend, finish, inserts, metric, started, transitions
from tests.waiting import eventually

LIMIT = 30.0
MISSED = str(Transition.OBJECTIVE_MISSED)


class Shop:
    """A manager with a task that waits for its gate, and must end in `LIMIT` seconds."""

    def __init__(self, backend: Backend, clock: FakeClock, **options: Any) -> None:
        self.gate, self.told = Gate(), InMemoryLogger()
        self.manager = TaskManager(snapshot_backend=backend, clock=clock, loggers=[self.told], shutdown_timeout=0)
        slo = SLO(success=0.99, within=LIMIT)
        self.pack = self.manager.task(name="pack", slo=slo, **{"persist": True, **options})(self.gate.run)

    def judged(self) -> tuple[float, float]:
        """How many tasks it has counted as good and as bad."""
        name = signals.SLO_EVENTS.name
        return metric(self.manager, name, "good"), metric(self.manager, name, "bad")

    async def missed(self, task_id: str) -> None:
        """Wait until the ledger says that the limit has passed."""

        async def there() -> bool:
            return MISSED in transitions(await self.manager.get(task_id))

        await eventually(there, "the line of the limit", interval=0.002)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["kept", "in memory"])
def shop(request: pytest.FixtureRequest, clock: FakeClock) -> Shop:
    kept = request.param == "kept"
    return Shop(MemoryBackend(durable=kept), clock, persist=kept)


async def test_a_task_is_good_or_bad_when_it_ends(shop: Shop, clock: FakeClock) -> None:
    async with started(shop.manager):
        assert shop.judged() == (0, 0)
        task_id = await shop.manager.enqueue(shop.pack)
        await clock.advance(LIMIT - 1)
        shop.gate.opened.set()
        record = await finish(shop.manager, task_id)
        await clock.advance(10 * LIMIT)
        assert (shop.judged(), MISSED in transitions(record)) == ((1, 0), False)
        assert record.due_at is not None
        assert (record.due_at - record.created_at).total_seconds() == LIMIT


@pytest.mark.parametrize("when", ["running", "waiting", "delayed", "ends badly"])
async def test_a_task_that_is_late_counts_once_when_its_limit_passes(shop: Shop, clock: FakeClock, when: str) -> None:
    async with started(shop.manager):
        if when in {"waiting", "delayed"}:
            await shop.manager.pause_queue("default")
        delay = 100.0 if when == "delayed" else None
        task_id = await shop.manager.enqueue(shop.pack, delay=delay)
        await clock.advance((delay or 0) + LIMIT - 1)
        assert shop.judged() == (0, 0)
        await clock.advance(2)
        await shop.missed(task_id)
        await settle()
        assert shop.judged() == (0, 1)
        event = await shop.told.wait_for(lambda event: getattr(event, "transition", "") == MISSED)
        assert isinstance(event, LifecycleEvent)
        assert event.status is (await shop.manager.get(task_id)).status

        await shop.manager.resume_queue("default")
        if when == "ends badly":
            await shop.manager.cancel(task_id)
        shop.gate.opened.set()
        record = await finish(shop.manager, task_id)
        await settle()
        assert transitions(record).count(MISSED) == 1
        assert shop.judged() == (0, 1)


async def test_cancelled_by_people_it_counts_as_nothing(shop: Shop, clock: FakeClock) -> None:
    async with started(shop.manager):
        task_id = await shop.manager.enqueue(shop.pack)
        await shop.gate.entered.wait()
        await shop.manager.cancel(task_id)
        await finish(shop.manager, task_id)
        await clock.advance(2 * LIMIT)
        assert shop.judged() == (0, 0)


async def test_retries_are_part_of_the_time(clock: FakeClock) -> None:
    shop = Shop(MemoryBackend(durable=True), clock)
    tries = 0

    @shop.manager.task(persist=True, retries=3, delay=20, slo=SLO(success=0.9, within=LIMIT))
    async def flaky() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ValueError

    async with started(shop.manager):
        task_id = await shop.manager.enqueue(flaky)
        for _ in range(2):
            await eventually(lambda: shop.manager.queue_stats()["default"].delayed == 1, "a retry", interval=0.002)
            await clock.advance(20)
        record = await finish(shop.manager, task_id)
        assert record.status is TaskStatus.SUCCESS
        assert shop.judged() == (0, 1)
        assert transitions(record).count(MISSED) == 1


async def test_it_counts_once_across_instances_and_where_no_process_was_there(clock: FakeClock) -> None:
    backend = MemoryBackend(durable=True)
    counted = (0.0, 0.0)
    task_ids: list[str] = []
    for life in range(4):
        shop = Shop(backend, clock, requeue_on_interrupt=True)
        async with started(shop.manager):
            await shop.manager.pause_queue("default")
            task_ids.append(await shop.manager.enqueue(shop.pack))
            if life == 1:
                # The limit of the first task passes while this instance has it.
                await clock.advance(LIMIT + 1)
            for task_id in task_ids[:life]:
                await shop.missed(task_id)
            good, bad = shop.judged()
            counted = counted[0] + good, counted[1] + bad
        # While no process is there, the limits of the others pass.
        await clock.advance(2 * LIMIT)
    assert counted == (0, 3)
    records = await backend.get_all(task_ids)
    assert [transitions(records[task_id]).count(MISSED) for task_id in task_ids] == [1, 1, 1, 0]


@pytest.mark.parametrize("commit", ["start", "end"])
async def test_a_limit_that_passes_during_a_commit_waits_for_it(clock: FakeClock, commit: str) -> None:
    backend = HeldBackend()
    shop = Shop(backend, clock)
    status = TaskStatus.RUNNING if commit == "start" else TaskStatus.SUCCESS

    def held(change: Change) -> bool:
        return isinstance(change, Update) and change.record.status is status

    async with started(shop.manager):
        backend.hold = held
        task_id = await shop.manager.enqueue(shop.pack)
        if commit == "end":
            await shop.gate.entered.wait()
            shop.gate.opened.set()
        await backend.holding.wait()
        await clock.advance(3)
        await clock.advance(LIMIT)
        assert shop.judged() == (0, 0)
        backend.release()
        if commit == "start":
            await shop.gate.entered.wait()
            await clock.advance(2)
            await shop.missed(task_id)
            shop.gate.opened.set()
        record = await finish(shop.manager, task_id)
        await settle()
        # It had ended in time; only the answer of the database was late.
        assert shop.judged() == ((1, 0) if commit == "end" else (0, 1))
        assert (MISSED in transitions(record)) == (commit == "start")


async def test_what_happens_while_the_line_is_committed_keeps_it(clock: FakeClock) -> None:
    backend = HeldBackend()
    shop = Shop(backend, clock)
    async with started(shop.manager):
        task_id = await shop.manager.enqueue(shop.pack)
        await shop.gate.entered.wait()
        backend.hold = lambda change: isinstance(change, Update)
        await clock.advance(LIMIT + 1)
        await backend.holding.wait()
        # The ledger may hold the line, which is not published yet.
        assert shop.manager.engine.vitals.unpublished() == {task_id: 2}
        assert shop.judged() == (0, 0)
        shop.gate.opened.set()
        await settle()
        backend.release()
        record = await finish(shop.manager, task_id)
        assert transitions(record) == ["enqueued", "started", MISSED, "succeeded"]
        await shop.told.wait_for(lambda event: getattr(event, "transition", "") == "succeeded")
        events = [str(event.transition) for event in shop.told.lifecycle_events]
        assert events == transitions(record)
        assert (shop.judged(), shop.manager.engine.vitals.unpublished()) == ((0, 1), {})
        await shop.manager.metrics_page.refresh()
        assert await reconcile(backend, metrics={"page": shop.manager.metrics.render("text/plain")[0].decode()}) == []


async def test_the_line_of_a_task_that_another_instance_owns_is_refused_and_not_counted(clock: FakeClock) -> None:
    backend = MemoryBackend(durable=True)
    shop = Shop(backend, clock)
    async with started(shop.manager):
        task_id = await shop.manager.enqueue(shop.pack)
        await shop.gate.entered.wait()
        stored = backend._tasks[task_id]
        stored.token += 1
        await clock.advance(LIMIT + 1)
        await settle()
        assert shop.judged() == (0, 0)
        assert MISSED not in transitions(stored)
        assert shop.manager.engine.vitals.unpublished() == {}
        shop.gate.opened.set()


async def test_a_shutdown_that_cuts_the_commit_off_leaves_it_to_the_ledger(clock: FakeClock) -> None:
    backend = HeldBackend()
    shop = Shop(backend, clock)
    await shop.manager.startup()
    await shop.manager.pause_queue("default")
    await shop.manager.enqueue(shop.pack)
    backend.hold = lambda change: isinstance(change, Update)
    await clock.advance(LIMIT + 1)
    await backend.holding.wait()
    stopping = asyncio.create_task(shop.manager.shutdown())
    await eventually(lambda: shop.manager.engine._ledger._writing is None, "the writer to be left", interval=0.002)
    await stopping
    assert shop.judged() == (0, 0)
    assert shop.manager.engine.objectives._doubts == {}
    backend.release()


async def test_a_request_that_takes_longer_than_the_limit_does_not_hide_it(clock: FakeClock) -> None:
    backend = HeldBackend()
    shop = Shop(backend, clock)
    async with started(shop.manager):
        backend.hold = inserts
        adding = asyncio.create_task(shop.manager.enqueue(shop.pack))
        await backend.holding.wait()
        await clock.advance(3)
        shop.manager.engine._ledger._deadlines.stop()
        await clock.advance(LIMIT)
        backend.release()
        task_id = await adding
        await shop.missed(task_id)
        shop.gate.opened.set()
        await finish(shop.manager, task_id)
        assert shop.judged() == (0, 1)
