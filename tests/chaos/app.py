"""The app that the storm kills: every execution notes in an append-only file that it began, and how it ended."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

from taskflow_otel import (
    SLO,
    LifecycleEvent,
    ManagedBackgroundTasks,
    TaskAdmin,
    TaskManager,
    TaskObserver,
    configure_telemetry,
    get_task_context,
    task_log,
)
from tests.chaos import doorbells
from tests.chaos.backends import make_backend
from tests.chaos.crash_points import (
    DRAIN,
    MID_RUN,
    CrashPoints,
    ResponseCrashPoints,
    add_crash_points,
    add_transaction_points,
)
from tests.chaos.kinds import KINDS
from tests.chaos.planted import FAULTS

# One O_APPEND write of a short line is atomic: lines of several processes never mix, and survive each of them.
_notes = os.open(os.environ["CHAOS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
points = CrashPoints(Path(os.environ["CHAOS_ARMED"]))
add_transaction_points(points)
# Processes that were forked from one parent would all draw the same numbers.
random.seed(os.urandom(8))


class JobError(Exception):
    """What a job raises."""


class Ends(TaskObserver):
    """Notes when it heard of the end of a task."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        if event.status.finished:
            os.write(_notes, f"ended {event.task_id} {datetime.now(UTC).isoformat()} {event.status}\n".encode())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    points.reach(DRAIN)


backend = make_backend(os.environ["CHAOS_BACKEND"], os.environ["CHAOS_URL"])
if fault := os.environ.get("CHAOS_FAULT"):
    FAULTS[fault].plant(backend)
app = FastAPI(lifespan=lifespan)
app.add_middleware(ResponseCrashPoints, points=points)
task_manager = TaskManager(
    snapshot_backend=add_crash_points(backend, points),
    queues=doorbells.queues(),
    max_concurrent_tasks=24,
    shutdown_timeout=0.5,
    cancel_grace=1.0,
    commit_timeout=1.5,
    lease_seconds=float(os.environ["CHAOS_LEASE"]),
    loggers=[Ends()],
)
TaskAdmin(app, task_manager, metrics_token="chaos")
celery_app = doorbells.connect(task_manager, points)
if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
    configure_telemetry(app, service_name="chaos")


def note(word: str, number: int) -> None:
    """Write one line of the books: the word, the task and its attempt, this process, the request's number."""
    context = get_task_context()
    assert context is not None
    # A child process runs the task for its parent, which owns it.
    pid = os.getppid() if context.func_name == "process" else os.getpid()
    at = datetime.now(UTC).isoformat()
    os.write(_notes, f"{word} {context.task_id} {context.attempt} {pid} {context.func_name} {number} {at}\n".encode())


async def work(number: int, seconds: float) -> None:
    """Be inside the function for a while."""
    note("enter", number)
    await asyncio.sleep(seconds / 2)
    points.reach(MID_RUN)
    await asyncio.sleep(seconds / 2)
    note("leave", number)


def give_up(number: int) -> None:
    """Fail this attempt."""
    note("raise", number)
    raise JobError(f"job {number} fails in this attempt")


@task_manager.task(persist=True)
async def plain(number: int) -> None:
    await work(number, random.uniform(0, 0.01))


@task_manager.task(persist=True, slo=SLO(success=0.9, within=0.5))
async def slow(number: int) -> None:
    await work(number, random.uniform(0.1, 0.8))


@task_manager.task(persist=True, requeue_on_interrupt=True, slo=SLO(success=0.9, within=1.0))
async def again(number: int) -> None:
    await work(number, random.uniform(0.1, 0.8))


@task_manager.task(
    persist=True, retries=KINDS["flaky"].retries, delay=0.3, jitter=0.5, slo=SLO(success=0.9, within=0.8)
)
async def flaky(number: int) -> None:
    note("enter", number)
    await asyncio.sleep(0.02)
    context = get_task_context()
    assert context is not None
    if context.attempt < number % 3:
        give_up(number)
    note("leave", number)


@task_manager.task(
    persist=True,
    requeue_on_interrupt=True,
    retries=KINDS["doomed"].retries,
    delay=0.2,
    backoff=2,
    slo=SLO(success=0.9, within=1.0),
)
async def doomed(number: int) -> None:
    note("enter", number)
    await asyncio.sleep(0.05)
    give_up(number)


@task_manager.task(persist=True, requeue_on_interrupt=True, slo=SLO(success=0.9))
def threaded(number: int) -> None:
    context = get_task_context()
    assert context is not None
    note("enter", number)
    for _ in range(10):
        time.sleep(0.01)
        points.reach(MID_RUN)
        context.raise_if_cancelled()
    note("leave", number)


@task_manager.task(persist=True, requeue_on_interrupt=True, eager=True, slo=SLO(success=0.9, within=0.05))
async def eager(number: int) -> None:
    await work(number, random.uniform(0, 0.1))


@task_manager.task(persist=True)
async def once(number: int) -> None:
    await work(number, random.uniform(0, 0.4))


@task_manager.task()
async def history(number: int) -> None:
    await work(number, random.uniform(0, 0.05))


@task_manager.task(persist=True, slo=SLO(success=0.9, within=1.0))
async def delayed(number: int) -> None:
    await work(number, random.uniform(0, 0.1))


@task_manager.task(persist=True, requeue_on_interrupt=True, executor="process", slo=SLO(success=0.9, within=0.3))
def process(number: int) -> None:
    note("enter", number)
    time.sleep(0.05)
    note("leave", number)


@task_manager.task(persist=True)
async def failing(number: int) -> None:
    await work(number, 0.01)


@task_manager.task(persist=True)
async def odd(number: int, said: object) -> None:
    """Say what no database, no JSON and no terminal takes as it is; every second job says it in its error too."""
    itself: list[object] = []
    itself.append(itself)
    context = get_task_context()
    assert context is not None
    note("enter", number)
    if said != odd_argument(number):
        # An end without a note: the check takes it for an outcome that is not the function's.
        raise JobError(f"job {number} was given {said!r}")
    for value in (itself, 10**5000, float("nan"), "\ud800\0", {("a", b"b"): datetime.now(UTC)}, Unprintable()):
        task_log("odd \ud800", value=value)
    context.progress(10**5000, 10**5001, message="\ud800")
    if number % 2:
        note("raise", number)
        raise odd_error(number)
    note("leave", number)


def odd_argument(number: int) -> object:
    """What the odd job of this number is given."""
    arguments = ("\ud800\0", 10**400, b"\xff\0", {"\ud800": ["\0", float("-inf")]}, "\ufffd?", float("inf"), "")
    return arguments[number % len(arguments)]


def odd_key(number: int) -> str:
    """A key that differs from those of other numbers only in what a database does not store as it is."""
    return f"odd \0{chr(0xD800 + number % 2048)}{chr(0xD800 + number // 2048)}"


def odd_error(number: int) -> Exception:
    """What the odd job of this number raises."""
    errors = (
        JobError("\ud800\0" * 10_000),
        UnprintableError(),
        JobError(Unprintable(), b"\xff", 10**5000),
        ExceptionGroup("\ud800", [JobError("\0"), UnprintableError()]),
    )
    return errors[number // 2 % len(errors)]


class Unprintable:
    """Something that cannot even say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class UnprintableError(Unprintable, Exception):
    """An error that cannot say what went wrong."""


@task_manager.task(persist=True)
async def large(number: int, body: str) -> None:
    await work(number, 0.01)


JOBS = {
    job.__name__: job
    for job in (
        plain,
        slow,
        again,
        flaky,
        doomed,
        threaded,
        eager,
        once,
        history,
        delayed,
        process,
        failing,
        odd,
        large,
    )
}


def add(
    kind: str, number: int, tasks: ManagedBackgroundTasks, key: str | None = None, size: int = 1000
) -> dict[str, str]:
    """Add one task of this kind."""
    arguments: tuple[object, ...] = (number,)
    tags: dict[str, object] = {"number": number}
    if kind == "large":
        arguments += ("x" * size,)
    if kind == "odd":
        arguments += (odd_argument(number),)
        tags["odd"] = "\ud800\0"
        key = odd_key(number)
    delay = KINDS[kind].delay or None
    return {"task_id": tasks.add_task(JOBS[kind], *arguments, idempotency_key=key, tags=tags, delay=delay)}


@app.post("/jobs/{kind}/{number}")
async def create(
    kind: str, number: int, tasks: ManagedBackgroundTasks, key: str | None = None, size: int = 1000
) -> dict[str, str]:
    return add(kind, number, tasks, key, size)


async def failing_commit() -> AsyncIterator[None]:
    """A dependency like a database session whose commit, after the route has returned, fails."""
    yield
    raise HTTPException(409, "the commit of the request's own work failed")


FailingCommit = Annotated[None, Depends(failing_commit, scope="function")]


@app.post("/failing-commit/{kind}/{number}")
async def create_and_fail_to_commit(
    kind: str, number: int, tasks: ManagedBackgroundTasks, _: FailingCommit
) -> dict[str, str]:
    return add(kind, number, tasks)


@app.post("/failing/{kind}/{number}")
async def create_and_fail(kind: str, number: int, tasks: ManagedBackgroundTasks) -> None:
    add(kind, number, tasks)
    raise HTTPException(409, "the route failed")
