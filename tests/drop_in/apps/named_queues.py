"""Named queues with limits; a full one is answered with 429."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from fastapi_taskflow import QueueFullError, TaskAdmin, TaskManager
from fastapi_taskflow.models import QueueConfig

task_manager = TaskManager(
    snapshot_db="queues.db",
    requeue_pending=True,
    queues={
        "email": QueueConfig(concurrency=10, max_size=200),
        "reports": QueueConfig(concurrency=1, max_size=1),
        "default": QueueConfig(concurrency=4, max_size=100),
    },
)
app = FastAPI()
TaskAdmin(app, task_manager, display_func_args=True)
may_end = asyncio.Event()


@task_manager.task(queue="reports", retries=1, delay=5.0)
async def export(user_id: int) -> None:
    await may_end.wait()


@app.post("/export")
async def add_export(
    user_id: int, queue: str | None = None, tasks: Any = Depends(task_manager.background_tasks)
) -> Any:
    try:
        return tasks.add_task(export, user_id, queue=queue)
    except QueueFullError as exc:
        return JSONResponse({"error": str(exc)}, 429)


@app.post("/finish")
async def finish() -> None:
    may_end.set()


@app.get("/queue-stats")
def queue_stats() -> Any:
    return task_manager.queue_stats()
