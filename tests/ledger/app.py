"""One of several server processes on one backend; what its tasks do is noted in a file that all of them append to."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager
from tests.chaos.backends import make_backend

# One O_APPEND write of a short line is atomic, so lines of several processes never mix.
_notes = os.open(os.environ["LEDGER_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

app = FastAPI()
task_manager = TaskManager(
    snapshot_backend=make_backend(os.environ["LEDGER_BACKEND"], os.environ["LEDGER_URL"]), snapshot_interval=0.2
)
TaskAdmin(app, task_manager)


def note(line: str) -> None:
    os.write(_notes, f"{line}\n".encode())


async def _wait(name: str) -> None:
    try:
        await _gates[name].wait()
    except asyncio.CancelledError:
        note(f"cancelled {name}")
        raise


@task_manager.task(persist=True)
async def kept(name: str) -> None:
    await _wait(name)


@task_manager.task()
async def passing(name: str) -> None:
    await _wait(name)


@task_manager.task(persist=True)
async def once(key: str) -> None:
    note(f"once {key}")


@app.post("/start/{kind}/{name}")
async def start(kind: str, name: str, tasks: ManagedBackgroundTasks) -> str:
    return tasks.add_task({"kept": kept, "passing": passing}[kind], name)


@app.post("/open/{name}")
async def open_gate(name: str) -> None:
    _gates[name].set()


@app.post("/once/{key}")
async def add_once(key: str, tasks: ManagedBackgroundTasks) -> str:
    return tasks.add_task(once, key, idempotency_key=key)
