"""An app for workers that share one queue of each ledger; `APP_LEDGERS` has their URLs by the kind of backend."""

from __future__ import annotations

import asyncio
import json
import os

from fastapi import FastAPI

from taskflow_otel import QueueConfig, TaskManager
from tests.chaos.backends import make_backend


async def hold(host: str, port: int) -> None:
    """Say who runs this, and run until an answer comes from there."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"%d\n" % os.getpid())
        await reader.readline()
    finally:
        writer.close()


async def spend(seconds: float) -> None:
    """Take this time, and no CPU."""
    await asyncio.sleep(seconds)


def make_manager(backend: str, url: str, slots: int) -> TaskManager:
    """A manager of the shared queue in one ledger."""
    queues = {"shared": QueueConfig(concurrency=slots, run="pool")}
    manager = TaskManager(snapshot_backend=make_backend(backend, url), queues=queues)
    for function in (hold, spend):
        manager.task(persist=True, queue="shared", requeue_on_interrupt=True)(function)
    return manager


app = FastAPI()
for _backend, _url in json.loads(os.environ.get("APP_LEDGERS", "{}")).items():
    make_manager(_backend, _url, int(os.environ["APP_SLOTS"])).init_app(app)
