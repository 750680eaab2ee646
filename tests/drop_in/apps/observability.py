"""A file, the terminal, a list for tests, several as one, and an observer of the application's own."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi_taskflow import (
    FileLogger,
    InMemoryLogger,
    LifecycleEvent,
    LogEvent,
    LoggerChain,
    StdoutLogger,
    TaskAdmin,
    TaskManager,
    TaskObserver,
    TaskStatus,
    task_log,
)


class Pager(TaskObserver):  # type: ignore[misc]  # an Any, as the package is not installed
    """Says what failed."""

    def __init__(self, min_level: str = "info") -> None:
        super().__init__(min_level=min_level)
        self.failed: list[str] = []
        self.said: list[str] = []

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        if event.status == TaskStatus.FAILED:
            self.failed.append(event.func_name)

    async def on_log(self, event: LogEvent) -> None:
        self.said.append(event.message)


pager, memory = Pager("warning"), InMemoryLogger(min_level="info")
task_manager = TaskManager(
    snapshot_db="observability.db",
    loggers=[
        FileLogger("tasks.log", max_bytes=5 * 1024 * 1024, backup_count=3, log_lifecycle=True, min_level="info"),
        StdoutLogger(min_level="warning"),
        LoggerChain([pager, memory]),
    ],
)
app = FastAPI()
TaskAdmin(app, task_manager, display_func_args=True)


@task_manager.task()
async def invoice(user_id: int, amount: float) -> None:
    task_log("begun", level="debug", user_id=user_id)
    task_log("charging", user_id=user_id, amount=amount)
    if amount <= 0:
        task_log("nothing to charge", level="warning")
        raise ValueError(f"amount {amount}")


@app.post("/invoice")
def add_invoice(user_id: int, amount: float, tasks: Any = Depends(task_manager.get_tasks)) -> Any:
    return tasks.add_task(invoice, user_id=user_id, amount=amount, tags={"source": "api"})
