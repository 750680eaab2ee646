"""What is done for one task does not grow with the number of tasks, keys, waits, queues or task types that there are.

The steps of the interpreter are counted, and no time is measured: a loop over what is there shows as many more steps in
the larger of two worlds. What one call of C does inside is not seen.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Insert, Update
from taskflow_otel.engine.ledger.batch import Commit
from taskflow_otel.engine.ledger.deadlines import Deadlines
from taskflow_otel.engine.ledger.notes import Notes
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.queues import Queue
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry
from taskflow_otel.exporters import stream
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import make_task_config
from taskflow_otel.runtime.timers import Timers
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.testing.clock import FakeClock
from tests.managers import started
from tests.waiting import eventually

SMALL, LARGE = 40, 1_200
SLACK = 60
"""Steps that one operation may take more: a heap is a little deeper, a container is made anew at times."""

DEFINITION = TaskDefinition(make_task_config(name="send", executor="async"), lambda: None, None)


class Steps:
    """Counts the steps of the interpreter inside the `with` block, on this thread."""

    def __init__(self) -> None:
        self.number = 0

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.number += event == "opcode"
        return self._trace

    def __enter__(self) -> Steps:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


def live(status: TaskStatus = TaskStatus.PENDING, **fields: Any) -> LiveTask:
    return LiveTask(make_task(status=status, **fields), DEFINITION, (), {}, None, durable=False)


def ready_task() -> LiveTask:
    task = live()
    task.phase = Phase.READY
    return task


World = Callable[[int], Callable[[], object]]
"""Makes a world of a size, and returns what is done in it once."""


def ready_queue(size: int) -> Callable[[], object]:
    queue = Queue("default", QueueConfig())
    for _ in range(size):
        queue.push(ready_task())

    def once() -> None:
        queue.push(ready_task())
        queue.head("async")
        queue.pop("async")

    return once


def cancelled_in_line(size: int) -> Callable[[], object]:
    queue = Queue("default", QueueConfig())
    tasks = [ready_task() for _ in range(size)]
    for task in tasks:
        queue.push(task)
    waiting = iter(tasks[1:])
    return lambda: queue.remove(next(waiting))


def waits(size: int) -> Callable[[], object]:
    timers = Timers(FakeClock())
    for number in range(size):
        timers.after(100.0 + number, lambda: None)
    return lambda: timers.after(50.0, lambda: None).cancel()


def notes(size: int) -> Callable[[], object]:
    noted = Notes()
    for _ in range(size):
        noted.add(live())
        noted.add(live(TaskStatus.SUCCESS))

    def once() -> None:
        noted.add(live(TaskStatus.SUCCESS))
        noted.take(1, only_ended=True)
        noted.trim(2 * size - 1)
        noted.add(live(TaskStatus.SUCCESS))

    return once


def finished_window(size: int) -> Callable[[], object]:
    tasks = LiveTasks(size)
    for _ in range(size):
        tasks.finish(live(TaskStatus.SUCCESS))

    def once() -> None:
        task = live(TaskStatus.SUCCESS)
        tasks.add(task)
        tasks.finish(task)
        tasks.record(task.id)

    return once


def keys(size: int) -> Callable[[], object]:
    tasks = LiveTasks(size)
    for number in range(size):
        tasks.hold_key(str(number), f"task {number}")

    def once() -> None:
        tasks.hold_key("another", "task")
        tasks.holder_of("another")
        tasks.release_key("another", "task")

    return once


def task_types(size: int) -> Callable[[], object]:
    registry = TaskRegistry()

    def make(number: int) -> Callable[..., Any]:
        async def job() -> None:
            pass

        registry.add(job, make_task_config(name=f"job-{number}", executor="async"))
        return job

    last = [make(number) for number in range(size)][-1]
    return lambda: registry.resolve(last)


def deadlines(size: int) -> Callable[[], object]:
    loop = asyncio.get_running_loop()
    pending: list[Commit] = []
    due = Deadlines(
        FakeClock(), lambda: pending, lambda _: None, sent=lambda _: False, lease_holds=lambda: True, chance=1.0
    )

    def commit() -> None:
        future: asyncio.Future[Applied] = loop.create_future()
        pending.append(Commit(Insert(make_task()), future, due.after(5.0)))

    for _ in range(size):
        commit()
    return commit


@pytest.mark.parametrize(
    "world", [ready_queue, cancelled_in_line, waits, notes, finished_window, keys, task_types, deadlines]
)
async def test_an_operation_takes_as_many_steps_among_many_as_among_few(world: World) -> None:
    found = []
    for size in (SMALL, LARGE):
        once = world(size)
        once()
        with Steps() as steps:
            once()
        found.append(steps.number)
    few, many = found
    assert few > 0
    assert many - few <= SLACK, found


async def test_a_write_to_the_history_in_memory_looks_at_no_other_task() -> None:
    found = []
    for size in (SMALL, LARGE):
        backend = MemoryBackend(max_finished=size)
        # Twice as many as it keeps: the oldest are forgotten.
        await backend.apply([Insert(make_task(status=TaskStatus.SUCCESS)) for _ in range(2 * size)])
        task = make_task(status=TaskStatus.RUNNING)
        with Steps() as steps:
            await backend.apply([Insert(task)])
            task.status = TaskStatus.SUCCESS
            await backend.apply([Update(task)])
        found.append(steps.number)
    assert found[1] - found[0] <= SLACK, found


async def steps_of_one_task(manager: TaskManager, prepare: Callable[[], Awaitable[None]]) -> int:
    """The steps of the event loop's thread from `enqueue` until the task has finished."""

    @manager.task(name="measured", queue="measured")
    async def measured() -> None:
        pass

    async with started(manager):
        await prepare()
        await manager.wait(await manager.enqueue(measured))
        numbers = []
        # The least of several: what the engine does once a second may fall among the others.
        for _ in range(5):
            with Steps() as steps:
                await manager.wait(await manager.enqueue(measured))
            numbers.append(steps.number)
        return min(numbers)


@pytest.mark.parametrize("what", ["in line", "delayed", "running", "queues"])
async def test_a_task_takes_as_many_steps_beside_many_others_as_beside_few(what: str) -> None:
    found = []
    for size in (SMALL, LARGE // 4):
        number = size if what == "queues" else 1
        queues = {f"queue-{place}": QueueConfig(concurrency=1) for place in range(number)}
        if what == "running":
            queues["queue-0"] = QueueConfig()
        manager = TaskManager(
            queues={**queues, "measured": QueueConfig()}, snapshot_interval=3600.0, shutdown_timeout=0.0
        )
        gate = asyncio.Event()

        @manager.task(name="other")
        async def other(gate: Any = gate) -> None:
            await gate.wait()

        async def prepare(manager: TaskManager = manager, other: Any = other, size: int = size) -> None:
            for place in range(size):
                options: dict[str, Any] = {"delay": 3600.0} if what == "delayed" else {}
                name = f"queue-{place}" if what == "queues" else "queue-0"
                await _enqueue(manager, other, name, options)
                if what == "queues":
                    # A second one, that waits for its queue's slot.
                    await _enqueue(manager, other, name, options)
            running = {"in line": 1, "delayed": 0}.get(what, size)
            await eventually(
                lambda: sum(stats.running for stats in manager.queue_stats().values()) == running, "these to run"
            )

        found.append(await steps_of_one_task(manager, prepare))
        gate.set()
    assert found[1] - found[0] <= SLACK, found


async def test_a_task_takes_as_many_steps_beside_many_watchers_of_the_live_stream_as_beside_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No change is sent while steps are counted: sending is what the watchers cost, and the task does not wait for it.
    monkeypatch.setattr(stream, "_INTERVAL_PER_SUBSCRIBER", 3600.0)
    found = []
    for size in (SMALL, LARGE // 4):
        manager = TaskManager(queues={"measured": QueueConfig()}, snapshot_interval=3600.0)
        watching: list[asyncio.Task[None]] = []

        async def watch(manager: TaskManager = manager) -> None:
            async for _ in manager.stream.subscribe():
                pass

        async def prepare(
            manager: TaskManager = manager,
            watch: Callable[[], Any] = watch,
            watching: list[asyncio.Task[None]] = watching,
            size: int = size,
        ) -> None:
            watching += [asyncio.create_task(watch()) for _ in range(size)]
            await eventually(lambda: manager.stream.subscribers == size, "all to watch")

        found.append(await steps_of_one_task(manager, prepare))
        # The stream ends with the manager.
        await asyncio.gather(*watching)
        assert manager.stream.subscribers == manager.stream.encoded == 0
    assert found[1] - found[0] <= SLACK, found


async def _enqueue(manager: TaskManager, func: Any, queue: str, options: dict[str, Any]) -> None:
    await manager.enqueue(func, queue=queue, **options)
