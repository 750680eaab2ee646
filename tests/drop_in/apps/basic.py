"""The two ways to get the tasks of a request, a persisted task, and one whose argument is a dictionary."""

from __future__ import annotations

from typing import Any

from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi_taskflow import ManagedBackgroundTasks, TaskAdmin, TaskManager

task_manager = TaskManager(snapshot_db="tasks.db", snapshot_interval=30.0)
app = FastAPI()
TaskAdmin(app, task_manager, display_func_args=True, auto_install=True)


@task_manager.task(retries=3, delay=1.0, backoff=2.0, persist=True)
def send_email(address: str) -> None:
    print(f"to {address}")


@task_manager.task(retries=1, delay=0.5)
async def process_webhook(payload: dict[str, Any]) -> None:
    print(payload)


@app.post("/signup")
def signup(email: str, background_tasks: BackgroundTasks, plan: str = "free") -> Any:
    add: Any = background_tasks.add_task
    return add(send_email, address=email, tags={"plan": plan})


@app.post("/webhook")
def webhook(tasks: ManagedBackgroundTasks = Depends(task_manager.get_tasks)) -> Any:
    return tasks.add_task(process_webhook, {"event": "order.created", "id": 42}, tags={"source": "webhook"})
