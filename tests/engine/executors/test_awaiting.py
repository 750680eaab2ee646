"""What a function returns is awaited wherever it ran, and can be ended."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest

from taskflow_otel import TaskManager, TaskStatus
from tests.engine.executors.conftest import in_shared, run
from tests.managers import finish, started

ran: list[str] = []


async def work(what: str) -> None:
    await asyncio.sleep(0)
    ran.append(what)


def sync_decorator(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


class Caller:
    def __call__(self, what: str) -> Awaitable[None]:
        return work(what)

    def method(self, what: str) -> Awaitable[None]:
        return work(what)


@types.coroutine
def old_style(what: str) -> Generator[Any, Any, None]:
    yield from work(what).__await__()


def in_two_steps(what: str) -> Any:
    async def outer() -> Any:
        return work(what)

    return outer()


AWAITABLES: dict[str, Callable[..., Any]] = {
    "sync decorator": sync_decorator(work),
    "lambda": lambda what: work(what),
    "partial of a lambda": functools.partial(lambda what: work(what)),
    "object": Caller(),
    "method": Caller().method,
    "types.coroutine": old_style,
    "future": lambda what: asyncio.run_coroutine_threadsafe(work(what), LOOP[0]) is not None and asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), LOOP[0]), loop=LOOP[0]
    ),
    "awaitable of an awaitable": in_two_steps,
}  # fmt: skip


LOOP: list[asyncio.AbstractEventLoop] = []


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", AWAITABLES)
async def test_whatever_returns_an_awaitable_is_awaited(kind: str, declared: bool) -> None:
    manager, func = TaskManager(), AWAITABLES[kind]
    LOOP[:] = [asyncio.get_running_loop()]
    ran.clear()
    if declared:
        manager.task(name="job")(func)
    async with started(manager):
        record = await finish(manager, await manager.enqueue(func, kind))
    assert (record.status, ran) == (TaskStatus.SUCCESS, [kind])


async def write(path: str) -> None:
    await asyncio.sleep(0)
    Path(path).write_text("ran")


def returns_coroutine(path: str) -> Awaitable[None]:
    return write(path)


def write_in_two_steps(path: str) -> Any:
    async def outer() -> Any:
        return write(path)

    return outer()


class Writer:
    def __call__(self, path: str) -> Awaitable[None]:
        return write(path)

    def method(self, path: str) -> Awaitable[None]:
        return write(path)


class Later:
    """What can be awaited and is no coroutine: the task function is its class."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __await__(self) -> Generator[Any, Any, None]:
        return write(self.path).__await__()


AWAITABLES_OF_CHILDREN: dict[str, Callable[..., Any]] = {
    "function": returns_coroutine,
    "sync decorator": sync_decorator(write),
    "lambda": lambda path: write(path),
    "object": Writer(),
    "method": Writer().method,
    "awaitable of an awaitable": write_in_two_steps,
    "awaitable object": Later,
}  # fmt: skip


@pytest.mark.parametrize("kind", AWAITABLES_OF_CHILDREN)
@in_shared
async def test_whatever_returns_an_awaitable_is_awaited_in_the_process_too(
    shared: TaskManager, kind: str, tmp_path: Path
) -> None:
    job = shared.task(executor="process", name=kind)(AWAITABLES_OF_CHILDREN[kind])
    record = await run(shared, job, str(tmp_path / "out"))
    assert record.status is TaskStatus.SUCCESS, record.error
    assert (tmp_path / "out").read_text() == "ran"


async def test_an_awaitable_that_a_plain_function_returned_can_be_cancelled() -> None:
    manager, entered = TaskManager(), asyncio.Event()

    async def endless() -> None:
        entered.set()
        await asyncio.Event().wait()

    async with started(manager):
        task_id = await manager.enqueue(lambda: endless())
        await entered.wait()
        await manager.cancel(task_id)
        assert (await finish(manager, task_id)).status is TaskStatus.CANCELLED


async def test_an_awaitable_that_a_plain_function_returned_has_its_timeout() -> None:
    manager = TaskManager()
    job = manager.task(timeout=0.05, name="job")(lambda: asyncio.Event().wait())
    async with started(manager):
        record = await finish(manager, await manager.enqueue(job))
    assert (record.status, record.reason) == (TaskStatus.FAILED, "timeout")


async def test_a_plain_function_reaches_the_event_loop_through_anyio() -> None:
    manager = TaskManager()
    threads: list[bool] = []

    async def on_the_loop() -> bool:
        return asyncio.get_running_loop() is LOOP[0]

    @manager.task()
    def job() -> None:
        threads.append(anyio.from_thread.run(on_the_loop))
        threads.append(anyio.from_thread.run_sync(asyncio.get_running_loop) is LOOP[0])
        anyio.from_thread.check_cancelled()

    LOOP[:] = [asyncio.get_running_loop()]
    async with started(manager):
        record = await finish(manager, await manager.enqueue(job))
    assert (record.status, threads) == (TaskStatus.SUCCESS, [True, True])
