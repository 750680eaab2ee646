"""A shop for Kubernetes: everything that differs between environments comes from the environment.

`DATABASE_URL`: PostgreSQL, shared by all pods. `TASKS_SECRET_KEY`: signs the sessions of the administration.
`TASKS_PASSWORD`: of its user `ops`. `TASKS_METRICS_TOKEN`: the bearer token of the scrape. `APP_RELEASE`: marks the
release on the boards. `OTEL_*`: as OpenTelemetry defines them.
"""

from __future__ import annotations

import os
from datetime import timedelta

from fastapi import FastAPI

from taskflow_otel import SLO, ManagedBackgroundTasks, TaskAdmin, TaskManager, configure_telemetry
from taskflow_otel.backends import PostgresBackend

SHUTDOWN_TIMEOUT = 20.0
"""Seconds that running tasks get at a stop. `terminationGracePeriodSeconds` of the pod must be longer: see there."""

task_manager = TaskManager(
    snapshot_backend=PostgresBackend(os.environ["DATABASE_URL"]),
    shutdown_timeout=SHUTDOWN_TIMEOUT,
    release=os.environ.get("APP_RELEASE"),
)


@task_manager.task(
    persist=True, requeue_on_interrupt=True, retries=3, delay=1.0, slo=SLO(success=0.999, within=timedelta(minutes=1))
)
async def send_receipt(order: int) -> None:
    """Stands for the work."""


app = FastAPI(title="Shop")


@app.post("/orders/{order}", status_code=202)
async def place(order: int, tasks: ManagedBackgroundTasks) -> dict[str, str]:
    """Answer once the task is stored."""
    return {"task_id": tasks.add_task(send_receipt, order)}


TaskAdmin(
    app,
    task_manager,
    auth=("ops", os.environ["TASKS_PASSWORD"]),
    secret_key=os.environ["TASKS_SECRET_KEY"],
    metrics_token=os.environ["TASKS_METRICS_TOKEN"],
)
# OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_RESOURCE_ATTRIBUTES come from the environment.
configure_telemetry(app, service_name="shop")
