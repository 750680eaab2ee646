"""Log lines with levels and values, in a coroutine and in a thread, over a retry."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi_taskflow import TaskAdmin, TaskManager, get_task_context, task_log

task_manager = TaskManager()
app = FastAPI()
TaskAdmin(app, task_manager, display_func_args=True)


@task_manager.task(retries=1, delay=0.01, backoff=2.0)
async def report(user_id: int) -> None:
    context = get_task_context()
    task_log("started", user_id=user_id, attempt=context.attempt if context else 0)
    if user_id == 0:
        task_log("no such user", level="error", user_id=user_id)
        raise ValueError(f"no user {user_id}")


@task_manager.task(retries=1, delay=0.01)
def inventory(user_id: int) -> None:
    context = get_task_context()
    assert context is not None
    task_log("locking", attempt=context.attempt, plan=context.tags.get("plan", "none"))
    if context.attempt == 0:
        raise RuntimeError("the lock is held")


@app.post("/report")
def add_report(user_id: int, tasks: Any = Depends(task_manager.get_tasks)) -> Any:
    return tasks.add_task(report, user_id=user_id)


@app.post("/inventory")
def add_inventory(user_id: int, tasks: Any = Depends(task_manager.get_tasks)) -> Any:
    return tasks.add_task(inventory, user_id=user_id, tags={"plan": "pro"})
