"""A shop in an incident: its second release fails in three ways while the file `broken` exists, and a task is stuck."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager

_directory = Path(os.environ["APP_DIRECTORY"])
_release = os.environ["APP_RELEASE"]

app = FastAPI()
task_manager = TaskManager(
    snapshot_db=_directory / "tasks.db", release=_release, lease_seconds=float(os.environ["APP_LEASE"])
)
TaskAdmin(app, task_manager, auto_install=True, display_func_args=True)


def _is_broken() -> bool:
    return _release == "2.0" and (_directory / "broken").exists()


@task_manager.task(persist=True)
async def charge_card(order: int) -> None:
    """Fail if the release is broken, for a reason that has a cause."""
    if _is_broken():
        try:
            raise TimeoutError(f"no answer for order {order}")
        except TimeoutError as cause:
            raise LookupError(f"order {order} was not charged") from cause


@task_manager.task(persist=True)
async def send_mail(address: str) -> None:
    """Fail if the release is broken."""
    if _is_broken():
        raise ConnectionError(f"the mail server refuses {address}")


@task_manager.task(persist=True)
def build_report(day: int) -> None:
    """Fail in a thread, if the release is broken."""
    if _is_broken():
        raise ValueError(f"day {day} has no rows")


async def wait_for_the_lock() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


@task_manager.task(persist=True)
async def import_rows(number: int) -> None:
    """Hang, if the number is odd."""
    if number % 2:
        await wait_for_the_lock()


@task_manager.task(persist=True)
async def ship(parcel: int) -> None:
    """Run until the process ends, the first time; the parcel is noted when it was shipped."""
    waits = _directory / "shipping"
    if waits.exists():
        with (_directory / "begun").open("a") as begun:
            begun.write(f"{parcel}\n")
        await asyncio.Event().wait()


TASKS = {"charge_card": charge_card, "build_report": build_report, "import_rows": import_rows, "ship": ship}


@app.post("/{task}/{number}")
async def add(task: str, number: int, tasks: ManagedBackgroundTasks) -> dict[str, str]:
    if task == "send_mail":
        return {"task_id": tasks.add_task(send_mail, f"customer-{number}@example.com")}
    return {"task_id": tasks.add_task(TASKS[task], number)}
