"""An app that a server imports before it forks its workers: made in the parent, started in each child."""

from __future__ import annotations

import os

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager
from tests.chaos.backends import make_backend

app = FastAPI()
task_manager = TaskManager(snapshot_backend=make_backend(os.environ["APP_BACKEND"], os.environ["APP_URL"]))
TaskAdmin(app, task_manager, auto_install=True)


@task_manager.task(persist=True)
async def job() -> None:
    """Nothing."""


@app.post("/run")
async def run(tasks: ManagedBackgroundTasks) -> dict[str, int]:
    tasks.add_task(job)
    return {"pid": os.getpid()}
