"""Where suspended asyncio tasks are: through everything that a coroutine can await."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator

import pytest

from taskflow_otel.compat.coroutines import code_of, context_of, suspended_frames

Wait = Callable[[], Awaitable[object]]


async def leaf() -> None:
    await asyncio.get_running_loop().create_future()


async def through_a_coroutine() -> None:
    await leaf()


async def through_a_task() -> None:
    await asyncio.create_task(leaf())


async def through_gather() -> None:
    await asyncio.gather(asyncio.sleep(0), leaf())


async def _items() -> AsyncGenerator[int, None]:
    await leaf()
    yield 1


async def through_an_async_generator() -> None:
    async for _ in _items():
        pass


@contextlib.asynccontextmanager
async def _managed() -> AsyncIterator[None]:
    await leaf()
    yield


async def through_a_context_manager() -> None:
    async with _managed():
        pass


class _Awaitable:
    def __await__(self) -> Generator[object, None, None]:
        return leaf().__await__()


async def through_an_object() -> None:
    await _Awaitable()


async def through_a_timeout() -> None:
    await asyncio.wait_for(leaf(), 60)


async def through_wait() -> None:
    await asyncio.wait({asyncio.create_task(leaf())})


@pytest.mark.parametrize(
    "wait",
    [
        through_a_coroutine,
        through_a_task,
        through_gather,
        through_an_async_generator,
        through_a_context_manager,
        through_an_object,
        through_a_timeout,
        through_wait,
    ],
)
async def test_each_way_to_wait_is_followed_to_its_end(wait: Wait) -> None:
    async def outer() -> None:
        await wait()

    task = asyncio.create_task(outer())
    for _ in range(5):
        await asyncio.sleep(0)
    names = [frame.f_code.co_name for frame in suspended_frames(task)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert names[:2] == ["outer", wait.__name__]
    assert names[-1] == "leaf"


async def test_two_tasks_that_wait_for_each_other_have_an_end() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def other(index: int) -> None:
        await asyncio.sleep(0)
        await asyncio.wait({tasks[index]}) if index else await tasks[index]

    tasks += [asyncio.create_task(other(1)), asyncio.create_task(other(0))]
    for _ in range(4):
        await asyncio.sleep(0)
    assert [frame.f_code.co_name for frame in suspended_frames(tasks[1])][:2] == ["other", "other"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_task_that_has_ended_has_no_frames() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    assert suspended_frames(task) == []


async def test_the_context_of_an_asyncio_task_is_its_own_and_not_that_of_its_callbacks() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    mine, other = contextvars.copy_context(), contextvars.copy_context()
    mine.run(variable.set, "mine")
    other.run(variable.set, "another")
    task = asyncio.get_running_loop().create_task(leaf(), context=mine)
    for _ in range(2):
        task.add_done_callback(lambda _: None, context=other)
    assert context_of(task) is mine
    assert code_of(task) is leaf.__code__
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
