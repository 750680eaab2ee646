"""Tasks that survive a restart, and one that runs once for each key."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi_taskflow import ManagedBackgroundTasks, TaskAdmin, TaskManager

task_manager = TaskManager(
    snapshot_db="resilience.db", snapshot_interval=30.0, requeue_pending=True, retry_replaces_original=False
)
app = FastAPI()
TaskAdmin(app, task_manager, "/tasks", True)


@task_manager.task(retries=3, delay=1.0, backoff=2.0)
def welcome(user_id: int) -> None:
    print(f"welcome {user_id}")


@task_manager.task(retries=2, delay=0.5, requeue_on_interrupt=True)
def synchronise(user_id: int) -> None:
    print(f"synchronised {user_id}")


@app.post("/welcome")
def add_welcome(user_id: int, tasks: Any = Depends(task_manager.background_tasks)) -> Any:
    return tasks.add_task(welcome, user_id)


@app.post("/sync")
def add_synchronise(
    user_id: int,
    key: str | None = None,
    tasks: ManagedBackgroundTasks = Depends(task_manager.background_tasks),
) -> Any:
    return tasks.add_task(synchronise, user_id, idempotency_key=key)
