"""Every state of a task meets every event that can come to it, in each executor, and ends where the table says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import QueueConfig, QueueFullError, TaskManager, TaskRecord, TaskStateError
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.errors import IllegalTransitionError
from taskflow_otel.exporters.memory import InMemoryLogger
from taskflow_otel.model.options import ExecutorName
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TRANSITIONS, TaskStatus, Transition
from taskflow_otel.testing.clock import FakeClock, settle
from tests.engine.gated import Gate, declare_gated
from tests.waiting import eventually

EXECUTORS: list[ExecutorName] = ["async", "thread", "process"]
TIMEOUT = 10.0
RETRY_DELAY = 60.0
KEY = "the key"


@dataclass
class Scene:
    """One task of a running manager, and what the test can do to it."""

    manager: TaskManager
    clock: FakeClock
    backend: MemoryBackend
    gate: Gate
    function: Any
    task_id: str = ""

    async def enqueue(self, **options: Any) -> None:
        """Add the task."""
        self.task_id = await self.manager.enqueue(self.function, str(self.gate.path), idempotency_key=KEY, **options)

    async def stored(self) -> TaskRecord:
        """The task as the ledger has it."""
        record = await self.backend.get(self.task_id)
        assert record is not None
        return record

    async def reach(self, status: TaskStatus) -> None:
        """Wait until the ledger shows `status`."""

        async def reached() -> bool:
            return (await self.stored()).status is status

        await eventually(reached, f"the task to be {status}", interval=0.002)

    async def enter(self, times: int = 1) -> None:
        """Wait until the function runs."""
        await eventually(lambda: self.gate.entries >= times, "the function to be entered", interval=0.002)
        await self.reach(TaskStatus.RUNNING)


@pytest.fixture
async def scene(executor: ExecutorName, tmp_path: Path) -> AsyncIterator[Scene]:
    clock = FakeClock()
    backend = MemoryBackend(durable=True)
    manager = TaskManager(
        snapshot_backend=backend, clock=clock, shutdown_timeout=0, queues={"narrow": QueueConfig(max_size=0)}
    )
    function = declare_gated(manager, executor, persist=True, retries=1, delay=RETRY_DELAY, timeout=TIMEOUT)
    await manager.startup()
    yield Scene(manager, clock, backend, Gate(tmp_path), function)
    await manager.shutdown()


async def ready(scene: Scene) -> None:
    await scene.manager.pause_queue("default")
    await scene.enqueue()


async def delayed(scene: Scene) -> None:
    await scene.enqueue(delay=RETRY_DELAY)


async def running(scene: Scene) -> None:
    await scene.enqueue()
    await scene.enter()


async def retry_wait(scene: Scene) -> None:
    await running(scene)
    scene.gate.open("fail")
    await scene.reach(TaskStatus.PENDING)
    scene.gate.shut()


async def running_again(scene: Scene) -> None:
    await retry_wait(scene)
    await scene.clock.advance(RETRY_DELAY)
    await scene.enter(times=2)


async def success(scene: Scene) -> None:
    await running(scene)
    scene.gate.open()
    await scene.reach(TaskStatus.SUCCESS)


async def failed(scene: Scene) -> None:
    await running_again(scene)
    scene.gate.open("fail")
    await scene.reach(TaskStatus.FAILED)


async def cancelled(scene: Scene) -> None:
    await ready(scene)
    await scene.manager.cancel(scene.task_id)


async def interrupted(scene: Scene) -> None:
    await running(scene)
    await restart(scene)


async def rejected(scene: Scene) -> None:
    with pytest.raises(QueueFullError):
        await scene.enqueue(queue="narrow")
    (record,) = (await scene.manager.engine.page(TaskQuery())).records
    scene.task_id = record.task_id


async def restart(scene: Scene) -> None:
    await scene.manager.shutdown()
    await scene.manager.startup()
    await settle()


async def start(scene: Scene) -> None:
    await scene.manager.resume_queue("default")
    record = await scene.stored()
    if record.status is TaskStatus.PENDING and record.run_at is not None:
        await scene.clock.advance(RETRY_DELAY)


async def succeed(scene: Scene) -> None:
    scene.gate.open()


async def fail(scene: Scene) -> None:
    scene.gate.open("fail")


async def cancel(scene: Scene) -> None:
    await scene.manager.cancel(scene.task_id)


async def time_out(scene: Scene) -> None:
    await scene.clock.advance(TIMEOUT)


async def shut_down(scene: Scene) -> None:
    await scene.manager.shutdown()


async def be_taken_over(scene: Scene) -> None:
    owner = scene.manager.engine.instance_id
    (instance,) = await scene.backend.instances()
    assert await scene.backend.bury(owner, instance.heartbeat_at)
    await scene.backend.take_over([owner], "another instance", ["gated"], 100)
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


State = Callable[[Scene], Awaitable[None]]

WAITING = [ready, delayed, retry_wait]
RUNNING = [running, running_again]
FINISHED = [success, failed, cancelled, interrupted, rejected]
EVENTS = [start, succeed, fail, cancel, time_out, shut_down, be_taken_over, be_doubled]

P, R, S, F = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCESS, TaskStatus.FAILED
C, I = TaskStatus.CANCELLED, TaskStatus.INTERRUPTED  # noqa: E741  # a column of the table
STATUS_OF: dict[State, TaskStatus] = {
    **dict.fromkeys(WAITING, P),
    **dict.fromkeys(RUNNING, R),
    success: S,
    failed: F,
    cancelled: C,
    interrupted: I,
    rejected: TaskStatus.REJECTED,
}

# What an event makes of a task that is not finished; where nothing is said, it stays as it is.
EXPECTED: dict[tuple[State, State], TaskStatus] = {
    **{(state, start): R for state in WAITING},
    **{(state, cancel): C for state in WAITING + RUNNING},
    **{(state, succeed): S for state in RUNNING},
    **{(state, shut_down): I for state in RUNNING},
    # The first failure is worth another attempt, the second is not.
    (running, fail): P,
    (running, time_out): P,
    (running_again, fail): F,
    (running_again, time_out): F,
}


def cases() -> list[Any]:
    """Each executor with each pair; a finished task no longer depends on how it ran."""
    return [
        pytest.param(executor, state, event, id=f"{executor}-{state.__name__}-{event.__name__}")
        for executor in EXECUTORS
        for state in [*WAITING, *RUNNING, *FINISHED]
        for event in EVENTS
        if executor != "process" or state is running
        if executor == "async" or state not in FINISHED
    ]


@pytest.mark.parametrize(("executor", "state", "event"), cases())
async def test_an_event_takes_a_task_where_the_table_says(scene: Scene, state: State, event: State) -> None:
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
        backend, clock, snapshot_interval=1, commit_timeout=1, observe=lambda *_: None, on_late=lambda _: None
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
            assert (task.record.status, task.record.timeline) == (before, [])
    finally:
        await ledger.close(1)
        await bus.close(1)
    assert len(told.lifecycle) == ((before, transition) in TRANSITIONS)
