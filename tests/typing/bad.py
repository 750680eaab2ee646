"""User code that a type checker must refuse: each line marked `wrong`, and no other."""
# pyright: strict

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, TaskManager, task_log

app = FastAPI()
task_manager = TaskManager()

TaskManager(snapshot_interval="often")  # wrong
TaskManager(queues={"mail": 3})  # wrong
TaskManager(log_file_mode="append")  # wrong
QueueConfig(concurrency="many")  # wrong


@task_manager.task(retries=1)
async def send_email(address: str, copies: int = 1) -> None: ...


@task_manager.task(executor="fiber")  # wrong
def resize(path: str) -> bytes:
    return b""


@app.post("/")
async def route(tasks: ManagedBackgroundTasks) -> int:
    tasks.add_task(send_email)  # wrong
    tasks.add_task(send_email, 3)  # wrong
    tasks.add_task(send_email, "a", copies="two")  # wrong
    tasks.add_task(send_email, "a", coppies=2)  # wrong
    tasks.add_task(send_email, "a", 1, 2)  # wrong
    tasks.add_task("send_email", "a")  # wrong
    tasks.add_task(send_email, "a", priority="high")  # wrong
    tasks.add_task(send_email, "a", delay="soon")  # wrong
    tasks.add_task(send_email, "a", run_at=12)  # wrong
    tasks.add_task(send_email, "a", queue=7)  # wrong
    await task_manager.enqueue(send_email)  # wrong
    await task_manager.enqueue(send_email, 3)  # wrong
    await task_manager.enqueue(send_email, "a", coppies=2)  # wrong
    await task_manager.enqueue(send_email, "a", priority="high")  # wrong
    await task_manager.enqueue(send_email, "a", run_at=12)  # wrong
    tasks.add_task(partial(send_email, 3), priority=9)  # wrong
    tasks.add_task(partial(send_email, "a", copies="two"), tags={"order": 7})  # wrong
    tasks.add_task(partial(send_email, "a", coppies=2), delay=1.0)  # wrong
    await task_manager.enqueue(partial(send_email, "a", 1, 2), priority=9)  # wrong
    await task_manager.schedule_once(partial(resize, 3), run_at=datetime.now(UTC))  # wrong
    await task_manager.schedule_once(resize, "a")  # wrong
    resize(3)  # wrong
    await send_email(None)  # wrong
    task_log(3)  # wrong
    return tasks.add_task(send_email, "a")  # wrong
