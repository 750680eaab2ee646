"""A small shop whose background work shows every state on the dashboard: `make demo`, or `taskflow-otel demo`.

Environment: `DEMO_DB` (path of the SQLite file, default `demo.db`), `DEMO_HOST` (`127.0.0.1`), `DEMO_PORT` (`8000`),
`DEMO_LOAD` (orders per second that it places with itself, default `1`; `0` turns that off).

With the extra `otel`, tracing is on, and each task on the page links to its trace. The demo keeps the newest traces
itself and shows them; with `OTEL_EXPORTER_OTLP_ENDPOINT` set, it exports traces, logs and metrics to that collector,
and the links lead to the Jaeger of the compose stack, or to `DEMO_TRACE_URL`.

Containers, such as that of Prometheus, do not reach `127.0.0.1` of this machine: `DEMO_HOST=0.0.0.0` lets them, and the
network.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import time
from collections.abc import AsyncGenerator

import uvicorn
from fastapi import BackgroundTasks, FastAPI
from opentelemetry import trace

from examples.demo_traces import keep_traces
from taskflow_otel import (
    ManagedBackgroundTasks,
    MissingExtraError,
    QueueConfig,
    TaskAdmin,
    TaskflowError,
    TaskManager,
    configure_telemetry,
    get_task_context,
    task_log,
)

HOST = os.environ.get("DEMO_HOST", "127.0.0.1")
PORT = int(os.environ.get("DEMO_PORT", "8000"))
ORDERS_PER_SECOND = float(os.environ.get("DEMO_LOAD", "1"))
EXPORTED = "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ
# The address for a browser of this machine.
BASE = f"http://{'127.0.0.1' if HOST == '0.0.0.0' else HOST}:{PORT}"
TRACES = "http://localhost:16686/trace" if EXPORTED else f"{BASE}/traces"
TRACE_URL = os.environ.get("DEMO_TRACE_URL") or f"{TRACES}/{{trace_id}}"
SERVICE = "taskflow-demo"
# The spans of its own; the page of each task shows them.
tracer = trace.get_tracer(SERVICE)

task_manager = TaskManager(
    snapshot_db=os.environ.get("DEMO_DB", "demo.db"),
    queues={"default": QueueConfig(), "mail": QueueConfig(concurrency=4), "reports": QueueConfig(concurrency=2)},
    max_sync_threads=4,
)


@task_manager.task(queue="mail", retries=3, delay=0.5, backoff=2.0, persist=True, requeue_on_interrupt=True)
async def send_email(address: str, subject: str) -> None:
    """The usual case: it works."""
    with tracer.start_as_current_span("render the template"):
        await asyncio.sleep(random.uniform(0.005, 0.03))
    with tracer.start_as_current_span("SMTP", kind=trace.SpanKind.CLIENT, attributes={"server.address": "mail"}):
        await asyncio.sleep(random.uniform(0.05, 0.3))
    task_log(f"sent {subject!r} to {address}")


@task_manager.task(retries=3, delay=0.5, backoff=2.0, jitter=0.1, persist=True)
async def charge_card(order: int) -> None:
    """Fails at first, and succeeds in a later attempt."""
    context = get_task_context()
    attempt = context.attempt if context else 0
    with tracer.start_as_current_span("POST /payments", kind=trace.SpanKind.CLIENT) as span:
        span.set_attributes({"http.request.method": "POST", "url.full": "https://pay.example/payments"})
        await asyncio.sleep(0.1)
        if attempt < order % 3:
            raise ConnectionError("the payment gateway did not answer")
    task_log(f"charged order {order}", attempts=attempt + 1)


@task_manager.task(retries=1, delay=1.0)
async def sync_warehouse(warehouse: int) -> None:
    """Never works: look at its errors on the page, and retry it from there."""
    task_log(f"asking warehouse {warehouse}", level="warning")
    raise ValueError(f"warehouse {warehouse} answered in an unknown format")


@task_manager.task(queue="reports", persist=True, requeue_on_interrupt=True, timeout=120.0)
async def export_report(pages: int) -> None:
    """Slow, with a progress bar. Cancel it, or kill the process and watch it run again."""
    context = get_task_context()
    for page in range(pages):
        if context:
            context.progress(page, pages, f"page {page + 1} of {pages}")
        await asyncio.sleep(0.5)
    if context:
        context.progress(pages, pages, "done")


@task_manager.task()
def resize_image(width: int) -> None:
    """A plain function: it runs in a thread, and stops between two steps when it is asked to."""
    context = get_task_context()
    for _ in range(4):
        if context:
            context.raise_if_cancelled()
        time.sleep(0.1)
    task_log(f"resized to {width} px")


@task_manager.task(queue="reports", priority=9)
async def alert_staff(message: str) -> None:
    """Overtakes the reports that wait in the same queue."""
    task_log(message, level="error")


@task_manager.schedule(every=20.0, queue="reports")
async def count_stock() -> None:
    """A schedule: its next and last firings are on the page and on the board about queues and instances."""
    await asyncio.sleep(random.uniform(0.1, 0.5))
    task_log("counted the stock")


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Own the load: it starts and ends with the app."""
    load = asyncio.create_task(place_orders()) if ORDERS_PER_SECOND > 0 else None
    try:
        yield
    finally:
        if load is not None:
            load.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await load


async def place_orders() -> None:
    """Place orders at a steady rate, so that the page has something to show."""
    for order in itertools.count(1):
        await asyncio.sleep(1.0 / ORDERS_PER_SECOND)
        # A slow disk may refuse one order; the next one comes.
        with contextlib.suppress(TaskflowError):
            await place(order)


async def place(order: int) -> None:
    """Place one order."""
    await task_manager.enqueue(send_email, f"customer{order}@example.com", "Thank you for your order")
    await task_manager.enqueue(charge_card, order)
    if order % 3 == 0:
        await task_manager.enqueue(resize_image, 320 * (1 + order % 4))
    if order % 7 == 0:
        await task_manager.enqueue(sync_warehouse, order % 5)
    if order % 10 == 0:
        await task_manager.enqueue(export_report, 20)
    if order % 25 == 0:
        await task_manager.enqueue(alert_staff, f"order {order} needs a signature")


app = FastAPI(title="taskflow-otel demo", lifespan=lifespan)
TaskAdmin(app, task_manager, auto_install=True, trace_url=TRACE_URL, display_func_args=True)
if EXPORTED:
    configure_telemetry(app, service_name=SERVICE)


@app.post("/orders/{order}", status_code=202)
async def create_order(order: int, address: str, background_tasks: BackgroundTasks) -> dict[str, int]:
    """An existing route: nothing in it knows of taskflow-otel."""
    background_tasks.add_task(send_email, address, "Thank you for your order")
    background_tasks.add_task(charge_card, order)
    return {"order": order}


@app.post("/reports", status_code=202)
def create_report(tasks: ManagedBackgroundTasks, pages: int = 20) -> dict[str, str]:
    """The explicit annotation: `add_task` returns the id of the task."""
    return {"task_id": tasks.add_task(export_report, pages, tags={"requested_by": "api"})}


class Server(uvicorn.Server):
    """Says where it is once it answers there."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"dashboard  {BASE}/tasks/dashboard")
            print(f"metrics    {BASE}/tasks/metrics")
            print(f"API        {BASE}/tasks   (documented at {BASE}/docs)", flush=True)


def main() -> None:
    """Run the app until it is interrupted."""
    try:
        listening = socket.create_server((HOST, PORT))
    except OSError as error:
        raise SystemExit(f"{HOST}:{PORT} cannot be used ({error.strerror}); DEMO_PORT chooses another port") from None
    if not EXPORTED:
        try:
            keep_traces(app, SERVICE)
        except (ImportError, MissingExtraError):
            print("traces     off: pip install 'taskflow-otel[otel]'")
    Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
