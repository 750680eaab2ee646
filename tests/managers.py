"""Short hands for tests that drive a `TaskManager` without an application, and a backend that a test can hold up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from taskflow_otel import TaskManager, TaskRecord, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.values import Histogram

WAIT = 60.0
"""Seconds after which a test gives up on what should take milliseconds."""


@contextlib.asynccontextmanager
async def started(manager: TaskManager) -> AsyncIterator[TaskManager]:
    """The manager between its start-up and its shutdown."""
    await manager.startup()
    try:
        yield manager
    finally:
        await manager.shutdown()


async def finish(manager: TaskManager, task_id: str) -> TaskRecord:
    """The task once it has finished."""
    return await manager.wait(task_id, WAIT)


async def status_of(manager: TaskManager, task_id: str) -> TaskStatus:
    """The status of a task at this moment."""
    return (await manager.get(task_id)).status


def transitions(record: TaskRecord) -> list[str]:
    """What has happened to a task, in order."""
    return [str(entry.transition) for entry in record.timeline]


class Gate:
    """A task function that waits until it is opened, and notes when it was entered and cancelled."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = False

    async def run(self) -> None:
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def metric(manager: TaskManager, name: str, *labels: str) -> float:
    """The sum of a metric's children that bear all of these label values."""
    total = 0.0
    for values, value in manager.metrics.snapshot()[name].items():
        if set(labels) <= set(values):
            assert not isinstance(value, Histogram)
            total += value
    return total


def stuck(manager: TaskManager) -> float:
    """`taskflow_tasks_stuck`."""
    return metric(manager, signals.TASKS_STUCK.name)


class HeldBackend(MemoryBackend):
    """A durable backend in memory that holds a transaction as long as `hold` matches one of its changes."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.hold: Callable[[Change], bool] = lambda _: False
        self.holding = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let the held transaction, and all that follow, through."""
        self.hold = lambda _: False
        self._released.set()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply the changes once nothing holds them."""
        if any(self.hold(change) for change in changes):
            self.holding.set()
            await self._released.wait()
        return await super().apply(changes)


def inserts(change: Change) -> bool:
    """Whether the change is the commit of a new task."""
    return isinstance(change, Insert)


def updates_to(status: str) -> Callable[[Change], bool]:
    """A predicate for the commit of a transition to this status."""
    return lambda change: isinstance(change, Update) and change.record.status == status
