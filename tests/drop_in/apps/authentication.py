"""A directory of users of the application's own, and tasks that are added outside a request."""

from __future__ import annotations

from typing import Any

from fastapi import BackgroundTasks, FastAPI
from fastapi_taskflow import ManagedBackgroundTasks, TaskAdmin, TaskAuthBackend, TaskManager, TaskRecord


class Directory(TaskAuthBackend):  # type: ignore[misc]  # an Any, as the package is not installed
    """Knows one user."""

    def authenticate_user(self, username: str, password: str) -> bool:
        return (username, password) == ("ada", "secret")


task_manager = TaskManager(loggers=None)
app = FastAPI()
TaskAdmin(app, task_manager, "/admin", False, True, Directory(), 3600, "a key of this application", 30.0, "Shop")
done: list[int] = []


@task_manager.task()
async def count(number: int) -> None:
    done.append(number)


@app.post("/by-hand")
async def by_hand(background_tasks: BackgroundTasks) -> Any:
    return ManagedBackgroundTasks(task_manager, background_tasks).add_task(count, 1)


def outside(number: int) -> Any:
    return ManagedBackgroundTasks(task_manager).add_task(count, number)


def record(task_id: str) -> TaskRecord | None:
    return task_manager.store.get(task_id)
