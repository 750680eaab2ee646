"""An app with an SDK tracer that samples everything, and with tasks that succeed, retry and fail."""

from __future__ import annotations

import os

from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, Telemetry
from tests.inside import own_context

app = FastAPI()
task_manager = TaskManager(
    snapshot_db=os.environ["APP_DB"], telemetry=Telemetry(tracer_provider=TracerProvider(shutdown_on_exit=False))
)
TaskAdmin(app, task_manager, auto_install=True)


@task_manager.task(persist=True)
async def succeed() -> None:
    """Do nothing."""


@task_manager.task(retries=1)
async def recover() -> None:
    """Fail in the first attempt only."""
    if own_context().attempt == 0:
        raise ConnectionError("not yet")


@task_manager.task()
def fail() -> None:
    """Fail always."""
    raise ValueError("never")


TASKS = {"succeed": succeed, "recover": recover, "fail": fail}


@app.post("/run/{name}")
async def run(name: str, tasks: ManagedBackgroundTasks) -> dict[str, str]:
    return {"task_id": tasks.add_task(TASKS[name])}
