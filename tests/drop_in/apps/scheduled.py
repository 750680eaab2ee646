"""Intervals and cron, runs by hand, and runs planned for a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import Depends, FastAPI
from fastapi_taskflow import ScheduledOnce, TaskAdmin, TaskManager, task_log

task_manager = TaskManager(snapshot_db="scheduled.db")
app = FastAPI()
TaskAdmin(app, task_manager, retention_days=30)


@task_manager.schedule(every=3600, retries=2, delay=5.0, run_on_startup=True)
async def health_check() -> None:
    task_log("healthy")


@task_manager.schedule(cron="0 3 * * *", timezone="Europe/London")
def cleanup() -> None:
    task_log("clean")


@task_manager.task()
async def remind(address: str) -> None:
    task_log(address)


@app.post("/cleanup")
async def add_cleanup(tasks: Any = Depends(task_manager.get_tasks)) -> Any:
    return tasks.add_task(cleanup)


@app.post("/remind")
async def plan(address: str, hours: float) -> None:
    await task_manager.schedule_once(
        remind, address, run_at=datetime.now(UTC) + timedelta(hours=hours), run_key=address, tags={"kind": "reminder"}
    )


@app.delete("/remind")
async def forget(address: str) -> Any:
    return await task_manager.cancel_scheduled(address)


@app.get("/planned")
async def planned(hours: float) -> Any:
    entries: list[ScheduledOnce] = await task_manager.list_scheduled(before=datetime.now(UTC) + timedelta(hours=hours))
    return [{**entry.to_dict(), "key": entry.run_key, "at": entry.fire_at.isoformat()} for entry in entries]
