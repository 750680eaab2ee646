"""An app whose tasks that are not persisted wait in line for one slot, and one task that does not end by itself."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager

_directory = Path(os.environ["APP_DIRECTORY"])

app = FastAPI()
task_manager = TaskManager(
    snapshot_db=_directory / "tasks.db", max_concurrent_tasks=1, shutdown_timeout=60.0, cancel_grace=60.0
)
TaskAdmin(app, task_manager)


@task_manager.task()
async def plain(number: int) -> None:
    # The first ends only once the server has been told to stop.
    while not (_directory / "stopping").exists():
        await asyncio.sleep(0.01)
    with (_directory / "ran").open("a") as ran:
        ran.write(f"{number}\n")


@task_manager.task()
async def endless(*, deaf: bool = False) -> None:
    (_directory / "inside").touch()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            (_directory / "asked").touch()
            if not deaf:
                raise


@app.post("/plain/{number}")
async def add_plain(number: int, tasks: ManagedBackgroundTasks) -> Any:
    return [tasks.add_task(plain, index) for index in range(number)]


@app.post("/endless")
async def add_endless(tasks: ManagedBackgroundTasks, deaf: bool = False) -> Any:
    return tasks.add_task(endless, deaf=deaf)


@app.on_event("shutdown")
async def stopping() -> None:
    (_directory / "stopping").touch()
