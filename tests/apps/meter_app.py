"""An app that sets up its own meter provider in its lifespan."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celery import Celery
from fastapi import FastAPI
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from taskflow_otel import SLO, ManagedBackgroundTasks, QueueConfig, TaskAdmin, TaskManager
from taskflow_otel.celery import install


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    yield
    provider.shutdown()


app = FastAPI(lifespan=lifespan)
task_manager = TaskManager(
    snapshot_db=os.environ["APP_DB"],
    queues={"shared": QueueConfig(run="pool"), "celery": QueueConfig(run="celery")},
)
install(Celery("workers", broker="memory://"), task_manager)
TaskAdmin(app, task_manager, auto_install=True)


@task_manager.task(persist=True, retries=1, slo=SLO(success=0.9, within=30))
async def send_email() -> None:
    raise ConnectionError("the mail server did not answer")


@task_manager.schedule(every=0.2)
async def tick() -> None:
    """Nothing."""


@app.post("/signup")
async def signup(tasks: ManagedBackgroundTasks) -> dict[str, str]:
    return {"task_id": tasks.add_task(send_email)}
