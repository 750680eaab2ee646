"""Task logs in a file and on the terminal, an observer of the application's own, and the telemetry of OpenTelemetry.

OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 uvicorn examples.observability:app

curl -X POST 'http://127.0.0.1:8000/invoices?amount=99.5'
curl -X POST 'http://127.0.0.1:8000/invoices?amount=0'
curl 'http://127.0.0.1:8000/failures'
curl 'http://127.0.0.1:8000/tasks/metrics'
"""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import Depends, FastAPI

from taskflow_otel import (
    FileLogger,
    LifecycleEvent,
    ManagedBackgroundTasks,
    StdoutLogger,
    TaskAdmin,
    TaskManager,
    TaskObserver,
    TaskStatus,
    configure_telemetry,
    task_log,
)

failed: list[str] = []


class Pager(TaskObserver):
    """Would call someone."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        if event.status is TaskStatus.FAILED:
            failed.append(f"{event.func_name}: {event.error}")


app = FastAPI()
if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
    configure_telemetry(app, service_name="invoices")
task_manager = TaskManager(
    loggers=[Pager(), FileLogger("invoices.log", log_lifecycle=True), StdoutLogger(min_level="warning")]
)
TaskAdmin(app, task_manager)
Tasks = Annotated[ManagedBackgroundTasks, Depends(task_manager.get_tasks)]


@task_manager.task()
async def invoice(amount: float) -> None:
    task_log("charging", amount=amount)
    if amount <= 0:
        raise ValueError(f"nothing to charge: {amount}")


@app.post("/invoices", status_code=202)
async def add_invoice(amount: float, tasks: Tasks) -> str:
    return tasks.add_task(invoice, amount, tags={"source": "api"})


@app.get("/failures")
async def failures() -> list[str]:
    return failed
