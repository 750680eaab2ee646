"""Priorities of a task type and of a call, and a task that starts before the response."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi_taskflow import ManagedBackgroundTasks, TaskAdmin, TaskManager

task_manager = TaskManager(snapshot_db="priority.db", snapshot_interval=30.0)
app = FastAPI()
TaskAdmin(app, task_manager, display_func_args=True)


@task_manager.task(retries=2, delay=0.5, priority=9)
async def send_otp(phone: str) -> None:
    print(phone)


@task_manager.task(eager=True)
async def notify(user_id: int) -> None:
    print(user_id)


@task_manager.task(priority=1)
def process(item_id: int) -> None:
    print(item_id)


@app.post("/otp")
async def add_otp(tasks: ManagedBackgroundTasks = Depends(task_manager.background_tasks)) -> Any:
    return tasks.add_task(send_otp, "555-0100")


@app.post("/notify")
async def add_notify(tasks: Any = Depends(task_manager.background_tasks)) -> Any:
    return tasks.add_task(notify, 1)


@app.post("/process")
async def add_process(priority: int | None = None, tasks: Any = Depends(task_manager.background_tasks)) -> Any:
    return tasks.add_task(process, 7, priority=priority)
