"""An app under a load of its own, in which everything that the dashboards show happens all the time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncGenerator, Sequence

from celery import Celery
from fastapi import FastAPI

from taskflow_otel import SLO, LifecycleEvent, QueueConfig, TaskAdmin, TaskManager, TaskObserver, configure_telemetry
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.celery import install


class UnreliableBackend(SqliteBackend):
    """SQLite of which one in twenty writes fails at first."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._writes = itertools.count(1)

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        if next(self._writes) % 20 == 0:
            raise ConnectionError("the disk has the hiccups")
        return await super().apply(changes)


class BrokenObserver(TaskObserver):
    """An observer that never works."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        raise ValueError("this observer is broken")


async def load() -> None:
    """Enqueue some of each task, again and again."""
    while True:
        await task_manager.enqueue(succeed)
        await task_manager.enqueue(fail)
        await task_manager.enqueue(block)
        await task_manager.enqueue(claimed)
        await task_manager.enqueue(rung)
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    running = asyncio.create_task(load())
    yield
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


app = FastAPI(lifespan=lifespan)
task_manager = TaskManager(
    snapshot_backend=UnreliableBackend(os.environ["APP_DB"]),
    loggers=[BrokenObserver()],
    queues={
        "mail": QueueConfig(concurrency=2),
        "shared": QueueConfig(run="pool"),
        "celery": QueueConfig(run="celery"),
    },
    max_sync_threads=1,
    release="1.4.2",
)
TaskAdmin(app, task_manager)
celery_app = Celery("shop", broker="memory://")
# No worker runs beside it: who rings runs the task.
celery_app.conf.task_always_eager = True
install(celery_app, task_manager)
configure_telemetry(app, service_name="shop")


@task_manager.task(queue="mail", persist=True, slo=SLO(success=0.99, within=30))
async def succeed() -> None:
    await asyncio.sleep(0.01)


@task_manager.task(retries=1, delay=0.2, slo=SLO(success=0.9))
async def fail() -> None:
    raise ConnectionError("nobody answers")


@task_manager.task(queue="shared", persist=True)
async def claimed() -> None:
    """Nothing, on the instance that takes it from the pool."""


@task_manager.task(queue="celery", persist=True)
async def rung() -> None:
    """Nothing, when a message asks for it."""


@task_manager.task()
def block() -> None:
    """Hold the only thread for longer than the next one takes to come."""
    time.sleep(0.15)


@task_manager.schedule(every=1.0)
async def tick() -> None:
    await asyncio.sleep(0)
