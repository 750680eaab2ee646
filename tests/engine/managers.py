"""Managers for the tests of the engine, and a backend whose commits a test can hold up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from taskflow_otel import TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.values import Histogram


@asynccontextmanager
async def running(manager: TaskManager) -> AsyncIterator[TaskManager]:
    """Run the manager for the length of a test."""
    await manager.startup()
    try:
        yield manager
    finally:
        await manager.shutdown()


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
