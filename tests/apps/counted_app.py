"""An app of which more is counted than the transitions of tasks: refusals, firings, refused writes, operations."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, TaskAdmin, TaskManager, configure_telemetry
from taskflow_otel.errors import QueueFullError

app = FastAPI()
task_manager = TaskManager(
    snapshot_db=os.environ["APP_DB"],
    queues={"small": QueueConfig(concurrency=1, max_size=2)},
    commit_timeout=1.5,
    lease_seconds=5.0,
)
TaskAdmin(app, task_manager, auto_install=True)
configure_telemetry(app, service_name="shop")


@task_manager.schedule(every=0.2, name="fast")
async def fast() -> None: ...


@task_manager.task(persist=True)
async def quick() -> None: ...


@task_manager.task(persist=True)
async def lasting() -> None:
    """Run until something happens to the process."""
    await asyncio.Event().wait()


@app.post("/add/{name}/{times}")
async def add(name: str, times: int, tasks: ManagedBackgroundTasks) -> None:
    for _ in range(times):
        tasks.add_task({"quick": quick, "lasting": lasting}[name])


@app.post("/crowd/{times}")
async def crowd(times: int, tasks: ManagedBackgroundTasks) -> int:
    """Return how many found no place."""
    refused = 0
    for _ in range(times):
        try:
            tasks.add_task(quick, queue="small")
        except QueueFullError:
            refused += 1
    return refused
