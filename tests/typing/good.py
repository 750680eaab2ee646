"""User code that a type checker must accept, and what it must see in it."""
# pyright: strict

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, assert_type
from uuid import UUID

from fastapi import BackgroundTasks, Depends, FastAPI, Header

from taskflow_otel import (
    ApiToken,
    ManagedBackgroundTasks,
    QueueConfig,
    QueueFullError,
    TaskAdmin,
    TaskContext,
    TaskManager,
    TaskRecord,
    TaskStatus,
    User,
    get_task_context,
    task_log,
)
from taskflow_otel.backends import Backend, MemoryBackend, SqliteBackend

app = FastAPI()
backend: Backend = SqliteBackend("tasks.db")
task_manager = TaskManager(snapshot_backend=backend, queues={"mail": QueueConfig(concurrency=4, max_size=100)})
TaskAdmin(app, task_manager, auto_install=True)
other_manager = TaskManager(snapshot_backend=MemoryBackend(durable=True), snapshot_interval=0.5)


@task_manager.task(retries=3, delay=timedelta(seconds=1), backoff=2, persist=True, retry_on=(OSError, ValueError))
async def send_email(address: str, *, subject: str = "", copies: int = 1) -> bool:
    """A docstring stays where it is."""
    context = get_task_context()
    assert_type(context, TaskContext | None)
    if context is not None:
        context.progress(1, copies, message=subject)
        task_log(f"to {address}", level="debug", attempt=context.attempt)
    return True


@task_manager.task(executor="process", timeout=30, no_retry_on=KeyError)
def resize(path: str, width: int) -> bytes:
    return b""


class Mailer:
    """A bound method is a function like any other."""

    async def send(self, order: UUID) -> None: ...


# A decorated function keeps its signature.
keeps_async: Callable[[str], Coroutine[Any, Any, bool]] = send_email
keeps_sync: Callable[[str, int], bytes] = resize
resized: bytes = resize("a.png", 100)


async def direct_call() -> bool:
    return await send_email("a@example.org", subject="hello")


def undecorated(number: int) -> None: ...


@app.post("/explicit")
async def explicit(tasks: ManagedBackgroundTasks, order: UUID) -> str:
    task_id = tasks.add_task(send_email, "a@example.org", subject="hello", copies=2)
    assert_type(task_id, str)
    tasks.add_task(resize, "a.png", width=100)
    tasks.add_task(Mailer().send, order)
    tasks.add_task(undecorated, 3)
    tasks.add_task(send_email, "a@example.org", idempotency_key="k")
    tasks.add_task(send_email, "a@example.org", tags={"order": order, "tenant": "a"})
    tasks.add_task(send_email, "a@example.org", subject="s", priority=9, queue="mail")
    tasks.add_task(resize, "a.png", 100, eager=True)
    tasks.add_task(partial(send_email, "a@example.org", copies=2), priority=9, tags={"tenant": "a"})
    tasks.add_task(resize, "a.png", 100, delay=1.5)
    tasks.add_task(resize, "a.png", 100, delay=timedelta(minutes=1))
    tasks.add_task(resize, "a.png", 100, run_at=datetime.now(UTC))
    tasks.add_task(resize, "a.png", 100, idempotency_key=None, tags=None, eager=None, priority=None, queue=None)
    return task_id


@app.post("/native")
def native(tasks: BackgroundTasks) -> None:
    tasks.add_task(send_email, "a@example.org")


@app.post("/depends")
def depends(tasks: Annotated[ManagedBackgroundTasks, Depends(task_manager.get_tasks)]) -> str:
    try:
        return tasks.add_task(send_email, "a@example.org")
    except QueueFullError as full:
        return f"{full.queue} holds {full.max_size}"


async def outside_requests() -> TaskStatus:
    task_id = await task_manager.enqueue(send_email, "a@example.org", priority=1)
    assert_type(task_id, str)
    record = await task_manager.wait(task_id, timeout=10)
    assert_type(record, TaskRecord)
    if record.status is TaskStatus.FAILED:
        record = await task_manager.retry(task_id)
    await task_manager.enqueue(partial(resize, "a.png", width=100), priority=9)
    await task_manager.schedule_once(partial(resize, "a.png", 100), run_at=datetime.now(UTC))
    await task_manager.update_queue_config("mail", concurrency=None)
    await task_manager.pause_queue("mail")
    waiting: int = task_manager.queue_stats()["mail"].ready
    live: list[TaskRecord] = task_manager.store.list()
    maybe: TaskRecord | None = task_manager.store.get(task_id)
    cancelled: Awaitable[TaskRecord] = task_manager.cancel(task_id)
    await cancelled
    return record.status if waiting or live or maybe else TaskStatus.SUCCESS


class Staff:
    """A directory of users."""

    async def authenticate(self, username: str, password: str) -> str | None:
        return "operator" if password == "right" else None

    def find(self, username: str) -> User | None:
        return User("operator", credential="changed with the password")


async def current_user(x_user: Annotated[str, Header()]) -> str:
    return x_user


def role_of(user: str) -> str | None:
    return "operator" if user == "ada" else None


TaskAdmin(FastAPI(), task_manager, auth=("ada", "secret"))
TaskAdmin(FastAPI(), task_manager, auth=[("ada", "secret"), ("vic", "secret", "viewer")])
TaskAdmin(FastAPI(), task_manager, auth=Staff(), tokens=[ApiToken("ci", "t" * 40, {"read", "retry"})])
TaskAdmin(FastAPI(), task_manager, auth=current_user, role=role_of)
TaskAdmin(FastAPI(), task_manager, auth=Depends(current_user), role=lambda user: "viewer")
