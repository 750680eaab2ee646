"""An app that is killed: each job notes in an append-only file when it begins and when it has ended."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager
from tests.inside import own_context

# One O_APPEND write of a short line is atomic, so lines of several lives never mix.
_notes = os.open(os.environ["APP_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

app = FastAPI()
task_manager = TaskManager(snapshot_db=os.environ["APP_DB"], max_concurrent_tasks=8)
TaskAdmin(app, task_manager, auto_install=True)


@task_manager.task(persist=True, requeue_on_interrupt=os.environ["APP_REQUEUE"] == "1")
async def job(number: int) -> None:
    task_id = own_context().task_id
    os.write(_notes, f"begin {task_id}\n".encode())
    await asyncio.sleep(0.015)
    os.write(_notes, f"end {task_id}\n".encode())


@app.post("/jobs/{number}")
async def create(number: int, tasks: ManagedBackgroundTasks) -> dict[str, str]:
    return {"task_id": tasks.add_task(job, number)}
