"""Every state of a task meets every event that can come to it, in each executor, and ends where the table says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from taskflow_otel import TaskRecord, TaskStateError
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.errors import IllegalTransitionError
from taskflow_otel.exporters.memory import InMemoryLogger
from taskflow_otel.model.options import ExecutorName
from taskflow_otel.model.record import TimelineEntry
from taskflow_otel.model.status import TRANSITIONS, TaskStatus, Transition
from taskflow_otel.testing.clock import FakeClock, settle
from tests.engine.membership import Alone
from tests.engine.scenes import (
    EXECUTORS,
    LastingPool,
    Scene,
    Step,
    cancel,
    cancelled,
    delayed,
    fail,
    failed,
    interrupted,
    lasting_pool,
    ready,
    rejected,
    retry_wait,
    running,
    running_again,
    shut_down,
    start,
    succeed,
    success,
    time_out,
)
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LastingPool]:
    async with lasting_pool() as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def scene(executor: ExecutorName, pool: LastingPool, tmp_path: Path) -> AsyncIterator[Scene]:
    async with Scene(executor, pool, tmp_path) as scene:
        yield scene


async def be_taken_over(scene: Scene) -> None:
    await scene.backend.take_over([await scene.be_declared_dead()], "another instance", ["gated"], 100)
    # The next heartbeat tells.
    await scene.clock.advance(1.0)
    await eventually(lambda: not scene.manager.store.list(), "the task to be let go", interval=0.002)


async def be_doubled(scene: Scene) -> None:
    """A second task with the same key comes: this one is not to be touched by it."""
    first = scene.task_id
    if (await scene.stored()).active_key is None:
        return
    await scene.enqueue()
    assert scene.task_id == first


async def be_recovered(scene: Scene) -> None:
    """Another instance starts, finds this one dead and takes over what it has left."""
    await scene.die()
    await scene.manager.startup()

    async def settled() -> bool:
        record = await scene.stored()
        return record.status.finished or record.timeline[-1].transition is Transition.RECOVERED

    await eventually(settled, "the decision on the task", interval=0.002)


WAITING = [ready, delayed, retry_wait]
RUNNING = [running, running_again]
FINISHED = [success, failed, cancelled, interrupted, rejected]
EVENTS = [start, succeed, fail, cancel, time_out, shut_down, be_taken_over, be_recovered, be_doubled]

P, R, S, F = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCESS, TaskStatus.FAILED
C, I = TaskStatus.CANCELLED, TaskStatus.INTERRUPTED  # noqa: E741  # a column of the table
STATUS_OF: dict[Step, TaskStatus] = {
    **dict.fromkeys(WAITING, P),
    **dict.fromkeys(RUNNING, R),
    success: S,
    failed: F,
    cancelled: C,
    interrupted: I,
    rejected: TaskStatus.REJECTED,
}

# What an event makes of a task that is not finished; where nothing is said, it stays as it is.
EXPECTED: dict[tuple[Step, Step], TaskStatus] = {
    **{(state, start): R for state in WAITING},
    **{(state, cancel): C for state in WAITING + RUNNING},
    **{(state, succeed): S for state in RUNNING},
    **{(state, event): I for state in RUNNING for event in (shut_down, be_recovered)},
    # The first failure is worth another attempt, the second is not.
    (running, fail): P,
    (running, time_out): P,
    (running_again, fail): F,
    (running_again, time_out): F,
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATUS_OF)
@pytest.mark.parametrize("executor", EXECUTORS)
async def test_an_event_takes_a_task_where_the_table_says(scene: Scene, state: Step, event: Step) -> None:
    await state(scene)
    before = STATUS_OF[state]
    assert (await scene.stored()).status is before
    entries = scene.gate.entries

    if event is cancel and before.finished:
        with pytest.raises(TaskStateError, match=str(before)):
            await event(scene)
    else:
        await event(scene)

    after = EXPECTED.get((state, event), before)
    await scene.reach(after)
    if after is not R:
        await settle()
        assert scene.gate.entries == entries, "the function was entered, and the ledger does not say so"
    record = await scene.stored()
    assert record.status is after
    assert_legal(record)


def assert_legal(record: TaskRecord) -> None:
    """The timeline is a walk through the table that ends at the status."""
    status: TaskStatus | None = None
    for entry in record.timeline:
        status = TRANSITIONS[status, entry.transition]
    assert status is record.status


async def test_a_start_that_is_published_late_has_its_wait_too() -> None:
    # The count of starts is that of waits.
    told = InMemoryLogger()
    bus, clock, backend = ObserverBus([], [told]), FakeClock(), MemoryBackend(durable=True)
    ledger = Ledger(backend, clock, Alone(), snapshot_interval=1, commit_timeout=1, observe=lambda *_: None)
    lifecycle = Lifecycle(bus, ledger, LiveTasks(10), clock)
    await bus.start()
    enqueued = TimelineEntry(Transition.ENQUEUED, clock.now(), 0, "one")
    await clock.advance(2)
    started = TimelineEntry(Transition.STARTED, clock.now(), 0, "one")
    record = TaskRecord("1", "job", P, enqueued.timestamp, persisted=True, timeline=(enqueued,))
    late = replace(record, status=R, timeline=(enqueued, started))
    await backend.apply([Insert(late)])
    task = LiveTask(record, TaskRegistry.placeholder("job"), None, None, None, durable=True)

    await lifecycle.show_if_held(late)
    lifecycle.adopt(task, late)
    await bus.close(1)
    assert [(event.transition, event.queue_wait) for event in told.lifecycle_events] == [(Transition.STARTED, 2.0)] * 2


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("before", list(TaskStatus))
@pytest.mark.parametrize("transition", list(Transition))
async def test_a_transition_outside_the_table_is_refused_and_changes_nothing(
    before: TaskStatus, transition: Transition, durable: bool
) -> None:
    told = InMemoryLogger()
    bus = ObserverBus([], [told])
    clock = FakeClock()
    backend = MemoryBackend(durable=True)
    ledger = Ledger(
        backend,
        clock,
        Alone(),
        snapshot_interval=1,
        commit_timeout=1,
        observe=lambda *_: None,
    )
    ledger.start()
    await bus.start()
    record = TaskRecord("1", "job", before, clock.now(), start_time=clock.now(), persisted=durable)
    task = LiveTask(record, TaskRegistry.placeholder("job"), None, None, None, durable=durable)
    task.stored = True
    await backend.apply([Insert(record)])
    lifecycle = Lifecycle(bus, ledger, LiveTasks(10), clock)

    try:
        if (before, transition) in TRANSITIONS:
            await lifecycle.move(task, transition)
            assert task.record.status is TRANSITIONS[before, transition]
            assert [entry.transition for entry in task.record.timeline] == [transition]
        else:
            with pytest.raises(IllegalTransitionError, match=str(before)):
                await lifecycle.move(task, transition)
            assert (task.record.status, task.record.timeline) == (before, ())
    finally:
        await ledger.close(1)
        await bus.close(1)
    assert len(told.lifecycle_events) == ((before, transition) in TRANSITIONS)
