"""An app whose tasks run here, in the pool, or on Celery, which a test kills in the middle of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from celery import Celery
from fastapi import FastAPI
from opentelemetry import trace

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, TaskAdmin, TaskManager, configure_telemetry
from taskflow_otel.celery import install
from taskflow_otel.celery.bell import CeleryBell
from taskflow_otel.engine.fleet import doorbells
from taskflow_otel.runtime.retrying import Backoff
from tests.chaos.backends import make_backend
from tests.inside import own_context

# A test waits for sweeps.
doorbells.SWEEP, doorbells.AGE = 0.5, 1.0
doorbells.AGAIN = Backoff(first=1.0, longest=5.0)

if "APP_TWICE" in os.environ:
    ring_once = CeleryBell.ring

    def ring_twice(self: CeleryBell, ring: doorbells.Ring) -> None:
        ring_once(self, ring)
        ring_once(self, ring)

    CeleryBell.ring = ring_twice  # type: ignore[method-assign]

app = FastAPI()
celery_app = Celery("shop", broker=os.environ["APP_BROKER"])
celery_app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # What the application says of its own tasks must not apply to ours.
    task_acks_late=True,
    worker_prefetch_multiplier=2,
    # On a loaded machine, a child takes long to begin.
    worker_proc_alive_timeout=60.0,
)
task_manager = TaskManager(
    snapshot_backend=make_backend(os.environ["APP_LEDGER"], os.environ["APP_DB"]),
    queues={
        "here": QueueConfig(),
        "pool": QueueConfig(run="pool"),
        "celery": QueueConfig(run="celery", celery_queue="work"),
    },
    shutdown_timeout=float(os.environ.get("APP_GRACE", "30")),
)
TaskAdmin(app, task_manager, auto_install=True)
install(celery_app, task_manager)
if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
    configure_telemetry(app, service_name="shop")


def _own(path: str) -> None:
    """A task of Celery itself, beside ours."""
    Path(path).write_text("done")


own = celery_app.task(name="tests.own")(_own)


def note(word: str) -> None:
    """Say which task ran, in which process."""
    with Path(os.environ["APP_NOTES"]).open("a") as notes:
        notes.write(f"{own_context().task_id} {word} {os.getpid()}\n")


@task_manager.task(persist=True, requeue_on_interrupt=True, queue="celery")
async def quick() -> None:
    note("quick")


@task_manager.task(persist=True, requeue_on_interrupt=True, queue="celery")
async def held() -> None:
    """Run until a file is there."""
    note("held")
    while not Path(os.environ["APP_RELEASE"]).exists():
        await asyncio.sleep(0.01)


@task_manager.task(persist=True, retries=2, delay=0.05, requeue_on_interrupt=True, queue="celery")
async def third_time() -> None:
    note("third_time")
    if own_context().attempt < 2:
        raise ConnectionError("not yet")


@task_manager.task(persist=True, queue="celery")
async def failing() -> None:
    raise ValueError("never")


@task_manager.task(persist=True, executor="process", queue="celery")
def in_process() -> None:
    with trace.get_tracer("shop").start_as_current_span("look up"):
        pass


@task_manager.task(persist=True, queue="celery")
async def success() -> None:
    tracer = trace.get_tracer("shop")
    with tracer.start_as_current_span("look up"), tracer.start_as_current_span("charge"):
        note("success")


TASKS: dict[str, Any] = {task.__name__: task for task in (quick, held, third_time, failing, in_process, success)}


@app.post("/run/{name}")
async def run(
    name: str, tasks: ManagedBackgroundTasks, queue: str = "celery", number: int = 1, delay: float | None = None
) -> list[str]:
    return [tasks.add_task(TASKS[name], queue=queue, delay=delay) for _ in range(number)]
