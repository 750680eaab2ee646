"""Doorbells: who rings, who answers, and what happens if a message is lost, doubled, late, or the broker is away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.pool import POOL, Claimed
from taskflow_otel.engine.deployment import RUN
from taskflow_otel.engine.fleet import doorbells as module
from taskflow_otel.engine.fleet.doorbells import Doorbells, Ring
from taskflow_otel.errors import BackendUnavailableError, ConfigurationError
from taskflow_otel.model.board import Said
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing import FakeClock
from tests.managers import WAIT, Gate, finish, metric, started, transitions
from tests.waiting import eventually

QUEUES = {"far": QueueConfig(run="celery", celery_queue="work"), "later": QueueConfig(run="celery")}


@pytest.fixture(autouse=True)
def _no_sweep_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP", 1e6)


class Kept(MemoryBackend):
    """A backend that several managers share."""

    def __init__(self) -> None:
        super().__init__(durable=True)


class Broker:
    """The bell of a broker in the memory of the test. `down` makes it refuse; what `lost` matches disappears."""

    def __init__(self) -> None:
        self.messages: list[Ring] = []
        self.threads: set[int] = set()
        self.lost: Callable[[Ring], bool] = lambda _: False
        self.down = False
        self.closed = 0

    def ring(self, ring: Ring) -> None:
        self.threads.add(threading.get_ident())
        if self.down:
            raise ConnectionError("no broker")
        if not self.lost(ring):
            self.messages.append(ring)

    def waiting(self, celery_queue: str | None) -> int:
        if self.down:
            raise ConnectionError("no broker")
        return sum(ring.celery_queue == celery_queue for ring in self.messages)

    def close(self) -> None:
        self.closed += 1


def member(backend: Kept, broker: Broker, work: Callable[..., Any], **options: Any) -> TaskManager:
    """A web process of the application."""
    manager = TaskManager(snapshot_backend=backend, queues=QUEUES, **options)
    manager.task(persist=True, queue="far", name="work", retries=1)(work)
    bells(manager).connect(broker)
    return manager


def child(backend: Kept, broker: Broker, work: Callable[..., Any], **options: Any) -> TaskManager:
    """A process of a Celery worker."""
    manager = member(backend, broker, work, **options)
    bells(manager).serve()
    return manager


def bells(manager: TaskManager) -> Doorbells:
    assert manager.engine.doorbells is not None
    return manager.engine.doorbells


def rung(manager: TaskManager, result: str) -> float:
    return metric(manager, "taskflow_doorbells_total", result)


async def arrived(broker: Broker, number: int) -> None:
    await eventually(lambda: len(broker.messages) >= number, f"{number} messages")


async def answer(manager: TaskManager, ring: Ring) -> bool:
    return await bells(manager).answer(ring.task_id, ring.queue)


async def test_a_task_is_rung_after_its_commit_and_one_of_two_messages_finds_it() -> None:
    async def work() -> None: ...

    backend, broker = Kept(), Broker()
    web, worker = member(backend, broker, work), child(backend, broker, work)
    async with started(web), started(worker):
        task_id = await web.enqueue(work)
        await arrived(broker, 1)
        [ring] = broker.messages
        assert ring[:4] == (task_id, "far", "work", "work")
        stored = await web.get(task_id)
        assert (stored.instance, stored.status) == (POOL, TaskStatus.PENDING)
        assert broker.threads.isdisjoint({threading.get_ident()})
        assert [await answer(worker, ring), await answer(worker, ring), await answer(web, ring)] == [True, False, False]
        record = await finish(web, task_id)
        assert record.instance == worker.engine.instance_id
        for manager, kind in ((web, "web"), (worker, "celery")):
            assert (await manager.engine.board.read())[manager.engine.instance_id].kind == kind
        assert rung(web, "rung") == 1
    assert broker.closed == 2


async def test_a_retry_waits_in_the_ledger_and_is_rung_like_a_new_task() -> None:
    attempts: list[int] = []

    async def work() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("not yet")

    backend, broker = Kept(), Broker()
    web, one, two = member(backend, broker, work), child(backend, broker, work), child(backend, broker, work)
    async with started(web), started(one), started(two):
        task_id = await web.enqueue(work)
        await arrived(broker, 1)
        # The answer ends with the attempt, so that Celery has its slot back.
        assert await answer(one, broker.messages[0])
        await arrived(broker, 2)
        assert await answer(two, broker.messages[1])
        record = await finish(web, task_id)
        assert (record.status, record.retries_used, record.instance) == (TaskStatus.SUCCESS, 1, two.engine.instance_id)


async def test_a_delayed_task_is_rung_when_it_is_due_and_a_cancelled_one_is_found_by_no_message() -> None:
    async def work() -> None: ...

    backend, broker = Kept(), Broker()
    web, worker = member(backend, broker, work), child(backend, broker, work)
    async with started(web), started(worker):
        delayed = await web.enqueue(work, delay=3600)
        task_id = await web.enqueue(work)
        await arrived(broker, 1)
        assert [ring.task_id for ring in broker.messages] == [task_id]
        assert (await worker.cancel(task_id)).status is TaskStatus.CANCELLED
        assert not await answer(worker, broker.messages[0])
        assert (await web.cancel(delayed)).status is TaskStatus.CANCELLED
        soon = await web.enqueue(work, delay=0.01)
        await arrived(broker, 2)
        assert await answer(worker, broker.messages[1])
        await finish(web, soon)


async def test_while_the_broker_is_away_tasks_are_taken_and_then_rung_again(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None: ...

    backend, broker, clock = Kept(), Broker(), FakeClock()
    broker.down = True
    web = member(backend, broker, work, clock=clock)
    async with started(web):
        ids = [await web.enqueue(work) for _ in range(3)]
        await eventually(lambda: rung(web, "failed") == 3, "the failures")
        assert len([r for r in caplog.records if "could not be published (no broker)" in r.getMessage()]) == 1
        await clock.advance(module.AGE)
        await bells(web).tick()
        assert rung(web, "unclaimed") == 0, "a broker that does not answer is not asked to take messages"
        broker.down = False
        await bells(web).tick()
        await arrived(broker, 3)
        assert {ring.task_id for ring in broker.messages} == set(ids)
        await bells(web).tick()
        assert (rung(web, "unclaimed"), rung(web, "rung")) == (3, 3)


async def test_a_sweep_rings_for_as_many_tasks_as_messages_are_missing() -> None:
    async def work() -> None: ...

    backend, broker, clock = Kept(), Broker(), FakeClock()
    web = member(backend, broker, work, clock=clock)
    async with started(web):
        for queue in ("far",) * 5 + ("later",):
            await web.enqueue(work, queue=queue)
        await arrived(broker, 6)
        await bells(web).tick()
        await clock.advance(module.AGE)
        await bells(web).tick()
        assert rung(web, "unclaimed") == 0, "no message was missing"
        del broker.messages[1:3]
        await bells(web).tick()
        await arrived(broker, 6)
        assert rung(web, "unclaimed") == 2
        # Wiped, in part again: a task that a sweep has rung is left alone for some time.
        broker.messages.clear()
        await bells(web).tick()
        await arrived(broker, 4)
        assert len({ring.task_id for ring in broker.messages}) == 4
        await web.pause_queue("far")
        await clock.advance(module.AGAIN.longest)
        broker.messages.clear()
        await bells(web).tick()
        await arrived(broker, 1)
        assert [ring.queue for ring in broker.messages] == ["later"], "a paused queue is not rung"


async def test_one_of_the_living_instances_sweeps_for_all_and_each_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None: ...

    backend, broker, clock = Kept(), Broker(), FakeClock()
    broker.lost = lambda _: True
    monkeypatch.setattr(module, "_WHOLE", 3)
    web, other = member(backend, broker, work, clock=clock), member(backend, broker, work, clock=clock)
    async with started(web), started(other):
        first, second = sorted((web, other), key=lambda one: one.engine.instance_id)
        await web.enqueue(work)
        await eventually(lambda: rung(web, "rung") == 1, "the first ring")
        await clock.advance(module.AGE)
        await first.engine.board.tick()
        for _ in range(2):
            await bells(second).tick()
            assert rung(second, "unclaimed") == 0
        await bells(second).tick()
        assert rung(second, "unclaimed") == 1
        await bells(first).tick()
        assert rung(first, "unclaimed") == 1
        # One that has other queues does not sweep for these.
        read = second.engine.board.read

        async def with_a_stranger() -> dict[str, Said]:
            return {"0": Said({}, {}, "web", None), **await read()}

        await first.shutdown()
        monkeypatch.setattr(second.engine.board, "read", with_a_stranger)
        await clock.advance(module.AGAIN.longest)
        await bells(second).tick()
        assert rung(second, "unclaimed") == 2


async def test_a_sweep_reads_a_bounded_number_of_tasks_that_wait_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None: ...

    backend, broker, clock = Kept(), Broker(), FakeClock()
    broker.lost = lambda _: True
    monkeypatch.setattr(module, "_PAGE", 2)
    monkeypatch.setattr(module, "_PAGES", 1)
    web = member(backend, broker, work, clock=clock)
    async with started(web):
        await web.enqueue(work)
        await eventually(lambda: rung(web, "rung") == 1, "the first ring")
        for _ in range(3):
            await web.enqueue(work, delay=3600)
        await clock.advance(module.AGE)
        await bells(web).tick()
        assert rung(web, "unclaimed") == 0
        await bells(web).tick()
        assert rung(web, "unclaimed") == 1


async def test_a_task_that_nobody_can_run_is_rung_more_and_more_rarely() -> None:
    async def work() -> None: ...

    backend, broker, clock = Kept(), Broker(), FakeClock()
    broker.lost = lambda _: True
    web = member(backend, broker, work, clock=clock)
    async with started(web):
        await web.enqueue(work)
        at: list[float] = []
        for second in range(0, 200, 5):
            before = rung(web, "unclaimed")
            await bells(web).tick()
            at += [second] if rung(web, "unclaimed") > before else []
            await clock.advance(5)
        assert at == [10, 20, 40, 80, 160]


async def test_the_messages_of_others_in_the_same_queue_do_not_hide_a_lost_one_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None: ...

    backend, broker, clock = Kept(), Broker(), FakeClock()
    monkeypatch.setattr(module, "_WHOLE", 3)
    web = member(backend, broker, work, clock=clock)
    async with started(web):
        await web.enqueue(work)
        await arrived(broker, 1)
        theirs = broker.messages[0]._replace(task_id="theirs")
        broker.messages[:] = [theirs]
        await clock.advance(module.AGE)
        for _ in range(2):
            await bells(web).tick()
        assert rung(web, "unclaimed") == 0
        await bells(web).tick()
        assert rung(web, "unclaimed") == 1


async def test_a_doorbell_is_not_answered_while_its_queue_is_paused_or_its_name_is_unknown() -> None:
    async def work() -> None: ...

    backend, broker = Kept(), Broker()
    web, worker = member(backend, broker, work), child(backend, broker, work)
    stranger = TaskManager(snapshot_backend=backend, queues=QUEUES)
    bells(stranger).connect(broker)
    async with started(web), started(worker), started(stranger):
        task_id = await web.enqueue(work)
        await arrived(broker, 1)
        [ring] = broker.messages
        assert not await answer(stranger, ring)
        await worker.pause_queue("far")
        assert not await answer(worker, ring)
        await worker.resume_queue("far")
        assert await answer(worker, ring)
        await finish(web, task_id)


async def test_an_answer_waits_for_a_backend_that_is_away_and_for_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, backend, broker, tries = Gate(), Kept(), Broker(), list[str]()
    claim = backend.pool_store.claim

    async def unsure(*args: Any) -> list[Claimed]:
        tries.append(args[0])
        if len(tries) == 1:
            raise BackendUnavailableError("no answer")
        return await claim(*args)

    web, worker = member(backend, broker, gate.run), child(backend, broker, gate.run, max_concurrent_tasks=1)
    monkeypatch.setattr(backend.pool_store, "claim", unsure)
    async with started(web), started(worker):
        ids = [await web.enqueue(gate.run) for _ in range(2)]
        await arrived(broker, 2)
        answers = [asyncio.ensure_future(answer(worker, ring)) for ring in broker.messages]
        await asyncio.wait_for(gate.entered.wait(), WAIT)
        assert not any(one.done() for one in answers)
        gate.opened.set()
        assert await asyncio.gather(*answers) == [True, True]
        for task_id in ids:
            assert transitions(await finish(web, task_id)) == ["enqueued", "started", "succeeded"]


async def test_without_a_celery_application_the_start_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = TaskManager(snapshot_backend=Kept(), queues=QUEUES)
    with pytest.raises(ConfigurationError, match=r"queues far, later have run='celery'.*celery\.install"):
        await manager.startup()
    bells(manager).connect(Broker())
    with pytest.raises(ConfigurationError, match="connected with a Celery application already"):
        bells(manager).connect(Broker())
    with pytest.raises(ConfigurationError, match="give TaskManager a database"):
        TaskManager(queues=QUEUES)

    # No variable makes a task of Celery one of the pool.
    async def work() -> None: ...

    for run in ("pool", "none"):
        backend, broker = Kept(), Broker()
        monkeypatch.setenv(RUN, run)
        web = member(backend, broker, work)
        async with started(web):
            await web.enqueue(work)
            await arrived(broker, 1)
            assert (await web.get(broker.messages[0].task_id)).instance == POOL
