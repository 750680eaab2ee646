"""A no-op task of libraries that keep their tasks in memory, from its call until it has run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.workloads import Run
from benchmarks.workloads.producers import produce

logging.disable(logging.INFO)


@asynccontextmanager
async def taskiq_memory(directory: Path) -> AsyncIterator[Run]:
    """taskiq's InMemoryBroker, as it comes. Nothing asks for the results: that would poll."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker()
    finished = asyncio.Semaphore(0)

    @broker.task
    async def nothing() -> None:
        finished.release()

    async def one() -> None:
        await nothing.kiq()
        await finished.acquire()

    await broker.startup()
    try:
        yield lambda number: produce(number, one)
    finally:
        await broker.shutdown()


@asynccontextmanager
async def flow_memory(directory: Path) -> AsyncIterator[Run]:
    """fastapi-taskflow without a snapshot: what a route adds, and what Starlette runs after its response."""
    from fastapi_taskflow import ManagedBackgroundTasks, TaskManager

    manager = TaskManager()

    @manager.task()
    async def nothing() -> None:
        pass

    async def one() -> None:
        tasks = ManagedBackgroundTasks(manager)
        tasks.add_task(nothing)
        await tasks()

    yield lambda number: produce(number, one)
