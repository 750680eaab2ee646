"""One task in one executor, brought to any state of its life, for the tests that drive every pair of something."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self
from unittest import mock

import pytest

from taskflow_otel import SLO, QueueConfig, QueueFullError, TaskManager, TaskRecord, Telemetry
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.engine.executors.process import ProcessExecutor
from taskflow_otel.model.options import ExecutorName
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.clock import FakeClock
from tests.engine.gated import Gate, declare_gated
from tests.waiting import eventually

EXECUTORS: list[ExecutorName] = ["async", "thread", "process"]
TIMEOUT = 10.0
RETRY_DELAY = 60.0


class LastingPool(ProcessExecutor):
    """Real children that outlive the managers which use them: the start of one takes a second."""

    async def close(self, timeout: float) -> None:
        """Leave the children to the next manager."""

    async def end(self) -> None:
        """End them for good."""
        await super().close(0)


@contextlib.asynccontextmanager
async def lasting_pool() -> AsyncIterator[LastingPool]:
    """A pool for the scenes of a module, which have to share one event loop."""
    pool = LastingPool(1)
    try:
        yield pool
    finally:
        await pool.end()


class Scene:
    """One task of a running manager, and what a test can do to it."""

    def __init__(
        self,
        executor: ExecutorName,
        pool: LastingPool,
        directory: Path,
        *,
        requeue_on_interrupt: bool = False,
        within: float = 3600.0,
    ) -> None:
        self.executor = executor
        self.clock = FakeClock()
        self.backend = MemoryBackend(durable=True)
        self.gate = Gate(directory)
        self.task_id = ""
        self._pool = pool
        self._requeue_on_interrupt = requeue_on_interrupt
        self._slo = SLO(success=0.99, within=within)
        self._managers: list[TaskManager] = []
        self._add_manager()

    async def __aenter__(self) -> Self:
        await self.manager.startup()
        return self

    async def __aexit__(self, *_: object) -> None:
        # What still runs ends by itself, since a shutdown would cost its process.
        await self.release()
        for manager in self._managers:
            await manager.shutdown()

    def telemetry(self) -> Telemetry:
        """Where a manager's telemetry goes."""
        return Telemetry()

    async def die(self) -> None:
        """Be declared dead; from now on this is the scene of another instance, which is not started yet."""
        await self.be_declared_dead()
        self._add_manager()

    async def be_declared_dead(self) -> str:
        """Be declared dead, and not know it; returns the id of the instance."""
        own = self.manager.engine.instance_id
        (beat,) = (i.heartbeat_at for i in await self.backend.instances() if i.instance_id == own)
        assert await self.backend.declare_dead(own, beat)
        return own

    async def enqueue(self, **options: Any) -> None:
        """Add the task."""
        self.task_id = await self.manager.enqueue(
            self._function, str(self.gate.path), idempotency_key="the key", **options
        )

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

    async def release(self) -> None:
        """Let the function return, on any instance."""
        self.gate.open()
        await eventually(
            lambda: not any(manager.engine.vitals.slots()[self.executor][0] for manager in self._managers),
            "the function to return",
            interval=0.002,
        )
        self.gate.shut()

    def _add_manager(self) -> None:
        with mock.patch("taskflow_otel.manager.ProcessExecutor", return_value=self._pool):
            self.manager = TaskManager(
                release="1.4.2",
                snapshot_backend=self.backend,
                clock=self.clock,
                telemetry=self.telemetry(),
                shutdown_timeout=0,
                queues={"narrow": QueueConfig(max_size=0)},
            )
        self._managers.append(self.manager)
        self._function: Any = declare_gated(
            self.manager,
            self.executor,
            persist=True,
            requeue_on_interrupt=self._requeue_on_interrupt,
            retries=1,
            delay=RETRY_DELAY,
            timeout=TIMEOUT,
            slo=self._slo,
        )


Step = Callable[[Scene], Awaitable[None]]
"""Brings the task to a state, or lets something happen to it."""


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
    await eventually(lambda: scene.manager.queue_stats()["default"].delayed == 1, "the wait", interval=0.002)
    scene.gate.shut()


async def running_again(scene: Scene) -> None:
    await retry_wait(scene)
    await scene.clock.advance(RETRY_DELAY)
    await scene.enter(times=2)


async def success(scene: Scene) -> None:
    await running(scene)
    scene.gate.open()
    await scene.manager.wait(scene.task_id)


async def failed(scene: Scene) -> None:
    await running_again(scene)
    scene.gate.open("fail")
    await scene.manager.wait(scene.task_id)


async def cancelled(scene: Scene) -> None:
    await ready(scene)
    await scene.manager.cancel(scene.task_id)


async def interrupted(scene: Scene) -> None:
    await running(scene)
    await scene.die()
    await scene.manager.startup()
    await scene.reach(TaskStatus.INTERRUPTED)
    await scene.release()


async def rejected(scene: Scene) -> None:
    with pytest.raises(QueueFullError):
        await scene.enqueue(queue="narrow")
    (record,) = (await scene.manager.engine.lookup.page(TaskQuery())).records
    scene.task_id = record.task_id


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
