"""Short hands for tests that drive a `TaskManager` without an application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from taskflow_otel import TaskManager, TaskRecord, TaskStatus

WAIT = 20.0
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
