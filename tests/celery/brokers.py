"""Celery applications on a broker in the memory of the test."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from celery import Celery

from taskflow_otel import QueueConfig, TaskManager

_names = count()


def shop(**options: Any) -> Celery:
    """A Celery application with a default queue of its own."""
    app = Celery(f"shop{next(_names)}", broker="memory://", set_as_current=False)
    app.conf.update({"task_default_queue": f"default{next(_names)}", **options})
    return app


def manager_of(
    directory: Path, work: Callable[..., Any], celery_queue: str | None = None, **options: Any
) -> TaskManager:
    """A manager with a task `work` that runs on Celery; those of one folder share a ledger."""
    queues = {"far": QueueConfig(run="celery", celery_queue=celery_queue)}
    manager = TaskManager(snapshot_db=directory / "tasks.db", queues=queues, **options)
    manager.task(persist=True, queue="far", name="work")(work)
    return manager
