"""An application with process tasks, for `uvicorn`."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import BackgroundTasks, FastAPI

from taskflow_otel import TaskManager, task_log

app = FastAPI()
task_manager = TaskManager(snapshot_db=os.environ["TASKS_DB"], max_process_workers=2, shutdown_timeout=0.1)
task_manager.install(app)


@task_manager.task(executor="process")
def write_pids(path: Path) -> None:
    path.write_text(f"{os.getpid()} {os.getppid()}")
    task_log("written")


@app.get("/")
def root() -> None:
    """Answers."""


@app.post("/tasks")
def add(path: Path, background_tasks: BackgroundTasks) -> None:
    background_tasks.add_task(write_pids, path)
