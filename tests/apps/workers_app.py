"""An app for several workers: tasks that succeed, fail and retry, and a way to learn who answers."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI

from taskflow_otel import SLO, ManagedBackgroundTasks, TaskAdmin, TaskManager, configure_telemetry
from tests.inside import own_context

app = FastAPI()
task_manager = TaskManager(snapshot_db=os.environ["APP_DB"])
TaskAdmin(app, task_manager, auto_install=True)
if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
    configure_telemetry(app, service_name="shop")


@task_manager.task(persist=True, requeue_on_interrupt=True, slo=SLO(success=0.99, within=0.1))
async def succeed() -> None:
    """Take a moment."""
    await asyncio.sleep(0.002)


@task_manager.task(persist=True, retries=1, delay=0.01, requeue_on_interrupt=True, slo=SLO(success=0.99, within=0.2))
async def recover() -> None:
    """Fail in the first attempt only."""
    if own_context().attempt == 0:
        raise ConnectionError("not yet")


@task_manager.task(persist=True, slo=SLO(success=0.5))
def fail() -> None:
    """Fail always, in a thread."""
    raise ValueError("never")


@app.post("/run/{times}")
async def run(times: int, tasks: ManagedBackgroundTasks) -> dict[str, int]:
    for number in range(times):
        tasks.add_task((succeed, succeed, recover, fail)[number % 4])
    return {"pid": os.getpid()}
