"""An app with a task for each kind of story that a trace can tell; it exports by OTLP as the environment says."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from opentelemetry import trace

from taskflow_otel import (
    ManagedBackgroundTasks,
    QueueConfig,
    TaskAdmin,
    TaskManager,
    configure_telemetry,
    task_log,
)
from taskflow_otel.errors import QueueFullError
from tests.inside import own_context

app = FastAPI()
task_manager = TaskManager(snapshot_db=os.environ["APP_DB"], queues={"tiny": QueueConfig(concurrency=1, max_size=1)})
TaskAdmin(app, task_manager, auto_install=True)
configure_telemetry(app, service_name="shop")


def step(name: str) -> Any:
    """A span of the application's own."""
    return trace.get_tracer("shop").start_as_current_span(name)


@task_manager.task(persist=True)
async def success() -> None:
    with step("look up"), step("charge"):
        task_log("charged")


@task_manager.task(persist=True, retries=3, delay=0.01)
async def third_time() -> None:
    if own_context().attempt < 3:
        raise ConnectionError("not yet")


@task_manager.task(persist=True)
async def failing() -> None:
    raise ValueError("never")


@task_manager.task(persist=True, eager=True)
async def eager() -> None:
    with step("look up"):
        task_log("at once")


@task_manager.task(persist=True)
async def later() -> None:
    task_log("later")


@task_manager.task(persist=True)
async def endless() -> None:
    await asyncio.Event().wait()


@task_manager.task(persist=True, timeout=0.05)
async def too_slow() -> None:
    await asyncio.Event().wait()


@task_manager.task(persist=True)
def in_thread() -> None:
    with step("look up"):
        task_log("in a thread")


@task_manager.task(persist=True, executor="process")
def in_process() -> None:
    with step("look up"):
        task_log("in a process")


@task_manager.task(persist=True, queue="tiny")
async def crowded() -> None:
    await asyncio.Event().wait()


@task_manager.task(persist=True, requeue_on_interrupt=True)
def wait_for_file() -> None:
    while not Path(os.environ["APP_RELEASE"]).exists():
        time.sleep(0.01)


@task_manager.task(persist=True, requeue_on_interrupt=True)
async def wait_on_the_loop() -> None:
    while not Path(os.environ["APP_RELEASE"]).exists():
        await asyncio.sleep(0.01)


@task_manager.task(persist=True, requeue_on_interrupt=True, executor="process")
def wait_in_process() -> None:
    while not Path(os.environ["APP_RELEASE"]).exists():
        time.sleep(0.01)


@task_manager.task(persist=True, retries=2, delay=0.01)
async def stubborn() -> None:
    raise ConnectionError("never")


@task_manager.task(persist=True, retries=2, delay=0.01)
def stubborn_in_thread() -> None:
    raise ConnectionError("never")


@task_manager.task(persist=True, retries=2, delay=0.01, executor="process")
def stubborn_in_process() -> None:
    raise ConnectionError("never")


@task_manager.task(persist=True)
async def again(left: int) -> None:
    """Adds itself."""
    if left > 1:
        await task_manager.enqueue(again, left - 1)


@task_manager.task(persist=True)
def again_in_thread(left: int) -> None:
    """Adds itself, from a thread."""
    if left > 1:
        asyncio.run(task_manager.enqueue(again_in_thread, left - 1))


TASKS = {
    task.__name__: task
    for task in (
        success, third_time, failing, eager, later, endless, too_slow, in_thread, in_process, wait_for_file,
        wait_on_the_loop, wait_in_process, stubborn, stubborn_in_thread, stubborn_in_process,
    )
}  # fmt: skip


@app.post("/run/{name}")
async def run(name: str, tasks: ManagedBackgroundTasks, delay: float | None = None) -> dict[str, str]:
    return {"task_id": tasks.add_task(TASKS[name], delay=delay)}


@app.post("/crowd")
async def crowd(tasks: ManagedBackgroundTasks) -> dict[str, Any]:
    """Add to a queue that holds one until it is full."""
    ids: list[str] = []
    try:
        while True:
            ids.append(tasks.add_task(crowded))
    except QueueFullError:
        return {"ids": ids}


@app.post("/plan/{name}")
async def plan(name: str) -> dict[str, str]:
    run_at = datetime.now(UTC) + timedelta(seconds=0.1)
    return {"task_id": (await task_manager.schedule_once(TASKS[name], run_at=run_at)).task_id}


@app.post("/again/{number}")
async def start_again(number: int) -> None:
    for task in (again, again_in_thread):
        await task_manager.enqueue(task, number)
