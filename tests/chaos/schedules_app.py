"""The app of a storm over schedules: what each run does, and what the scheduler says, is noted in one file."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time

from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager
from tests.chaos.backends import make_backend
from tests.inside import own_context

# One O_APPEND write of a short line is atomic: lines of several processes never mix, and survive each of them.
_notes = os.open(os.environ["CHAOS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
app = FastAPI()
task_manager = TaskManager(snapshot_backend=make_backend(os.environ["CHAOS_BACKEND"], os.environ["CHAOS_URL"]))
TaskAdmin(app, task_manager, metrics_token="chaos")


def note(word: str, **values: object) -> None:
    """Write one line of the books."""
    os.write(_notes, (json.dumps({"word": word, "at": time.time(), "pid": os.getpid(), **values}) + "\n").encode())


class Words(logging.Handler):
    """Notes the scheduler's log: it logs what it leaves out before it continues."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        note("said", text=record.getMessage())


logging.getLogger("taskflow_otel.schedules").addHandler(Words())


def enter() -> None:
    """A run begins."""
    note("enter", task=own_context().task_id)


def leave() -> None:
    """A run ends."""
    note("leave", task=own_context().task_id)


@task_manager.schedule(every=0.2, catch_up="all", requeue_on_interrupt=True)
async def fast() -> None:
    enter()
    await asyncio.sleep(random.uniform(0, 0.1))
    leave()


@task_manager.schedule(every=1, catch_up="all", requeue_on_interrupt=True)
def second() -> None:
    enter()
    time.sleep(random.uniform(0, 0.3))
    leave()


@task_manager.schedule(every=60, catch_up="all", requeue_on_interrupt=True)
async def minute() -> None:
    enter()
    await asyncio.sleep(random.uniform(0, 3))
    leave()


@task_manager.schedule(every=1)
async def default() -> None:
    enter()
    await asyncio.sleep(random.uniform(0, 0.3))
    leave()
