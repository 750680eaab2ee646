"""An app that is told to stop in the middle of everything; in its second life (`APP_LIFE=2`) its jobs end at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, TaskAdmin, TaskManager
from taskflow_otel.exporters import signals
from tests.inside import own_context

_FIRST_LIFE = os.environ["APP_LIFE"] == "1"
_notes = os.open(os.environ["APP_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

app = FastAPI()
task_manager = TaskManager(
    snapshot_db=os.environ["APP_DB"],
    shutdown_timeout=1.0,
    cancel_grace=1.0,
    queues={"narrow": QueueConfig(concurrency=1)},
)
TaskAdmin(app, task_manager, auto_install=True)


def note(name: str) -> None:
    os.write(_notes, f"{name} {os.environ['APP_LIFE']}\n".encode())


@task_manager.task(persist=True, requeue_on_interrupt=True)
async def held_async() -> None:
    note("held_async")
    if _FIRST_LIFE:
        await asyncio.Event().wait()


@task_manager.task(persist=True, requeue_on_interrupt=True)
def held_thread() -> None:
    note("held_thread")
    while _FIRST_LIFE:
        own_context().raise_if_cancelled()
        time.sleep(0.01)


@task_manager.task(persist=True, requeue_on_interrupt=True, executor="process")
def held_process() -> None:
    note("held_process")
    if _FIRST_LIFE:
        time.sleep(3600)


@task_manager.task(persist=True)
async def once() -> None:
    note("once")
    await asyncio.Event().wait()


@task_manager.task(persist=True)
def deaf() -> None:
    note("deaf")
    time.sleep(3600)


@task_manager.task(persist=True)
async def finishing() -> None:
    note("finishing")
    while task_manager.engine.state == "running":
        await asyncio.sleep(0.01)


@task_manager.task(persist=True, queue="narrow", requeue_on_interrupt=True)
async def narrow() -> None:
    note("narrow")
    if _FIRST_LIFE:
        await asyncio.Event().wait()


@task_manager.task(persist=True, retries=1, delay=5)
async def failing() -> None:
    note("failing")
    if _FIRST_LIFE:
        raise ValueError("the first life")


JOBS: dict[str, Any] = {
    function.__name__: function
    for function in (held_async, held_thread, held_process, once, deaf, finishing, narrow, failing)
}


@app.post("/{name}")
async def add(name: str, tasks: ManagedBackgroundTasks) -> str:
    return tasks.add_task(JOBS[name])


_managed = app.router.lifespan_context


@contextlib.asynccontextmanager
async def _lifespan(running: Any) -> AsyncIterator[Any]:
    async with _managed(running) as state:
        yield state
    attempts = task_manager.metrics.snapshot()[signals.TASK_ATTEMPTS.name]
    lines = [[task, outcome, value] for (task, _, outcome), value in attempts.items()]
    Path(os.environ["APP_METRICS"]).write_text(json.dumps(lines))


app.router.lifespan_context = _lifespan
