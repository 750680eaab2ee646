"""An app that exports by OTLP as the environment says, with a task that fails once and one that waits for a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from fastapi import FastAPI

from taskflow_otel import (
    ManagedBackgroundTasks,
    TaskAdmin,
    TaskManager,
    configure_telemetry,
    task_log,
)
from tests.inside import own_context

app = FastAPI()
task_manager = TaskManager(snapshot_db=os.environ["APP_DB"])
TaskAdmin(app, task_manager, auto_install=True)
configure_telemetry(app, service_name="shop")


@task_manager.task(retries=1, delay=0.05, persist=True)
async def send_email(address: str) -> None:
    if own_context().attempt == 0:
        raise ConnectionError("the mail server did not answer")
    task_log("sent", size=512)


@task_manager.task(persist=True, requeue_on_interrupt=True)
async def wait_for_file() -> None:
    while not Path(os.environ["APP_RELEASE"]).exists():
        await asyncio.sleep(0.01)


@app.post("/signup")
async def signup(tasks: ManagedBackgroundTasks) -> dict[str, str]:
    return {"task_id": tasks.add_task(send_email, "ada@example.com", tags={"campaign": "spring"})}


@app.post("/wait")
async def wait(tasks: ManagedBackgroundTasks) -> dict[str, str]:
    return {"task_id": tasks.add_task(wait_for_file)}
