"""Background work: each asyncio task has an owner, who stops it and gets its exception."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from contextvars import Context
from typing import Any, TypeVar

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

T = TypeVar("T")

TURN = 0.1
"""Seconds for work that needs only a turn of the event loop, such as the end of what was cancelled."""


class OwnedTasks(Collection[asyncio.Task[None]]):
    """The asyncio tasks of one owner. `on_error` is called with the exception of a task that failed."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[None]] = set()

    def own(self, work: Coroutine[Any, Any, None], *, context: Context | None = None) -> asyncio.Task[None]:
        """Start a piece of work, in a copy of the current context unless another is given."""
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        # In an empty context: the caller's context, perhaps of a request, must not live as long as the work.
        task.add_done_callback(self._done, context=Context())
        return task

    def begin(self, work: Coroutine[Any, Any, None], context: Context, name: str) -> asyncio.Task[None]:
        """Start work that handles its own failures and calls `end` as its last step.

        That saves the event loop a callback for each piece. `name`: that of the asyncio task.
        """
        job = asyncio.get_running_loop().create_task(work, context=context, name=name)
        # A loop that starts its tasks eagerly may have ended this one.
        if not job.done():
            self._tasks.add(job)
        return job

    def end(self, job: asyncio.Task[None]) -> None:
        """A piece of work that was begun is over."""
        self._tasks.discard(job)

    async def stop(self) -> None:
        """Cancel all tasks and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self) -> None:
        """Forget all tasks: their event loop is closed."""
        self._tasks.clear()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_error(exc)

    def __contains__(self, task: object) -> bool:
        return task in self._tasks

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(set(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)


async def in_slices(items: Iterable[T], size: int) -> AsyncIterator[T]:
    """Yield items, and let the event loop run after each `size` of them.

    A cancellation in between is raised only after the last item, so that nothing stays half done.
    """
    cancelled: asyncio.CancelledError | None = None
    for number, item in enumerate(items, start=1):
        yield item
        if number % size == 0 and cancelled is None:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as exc:
                cancelled = exc
    if cancelled is not None:
        raise cancelled


async def gather_all(stops: list[Awaitable[object]]) -> None:
    """Await several shutdown steps; a failure is logged and does not stop the others."""
    for outcome in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(outcome, Exception):
            logger.error("a part could not be stopped cleanly: %s", outcome, exc_info=outcome)


async def bounded(step: Awaitable[object], seconds: float, what: str) -> None:
    """Await a shutdown step for some time; then cancel it, and abandon it if it ignores that."""
    work = asyncio.ensure_future(step)
    done, _ = await asyncio.wait({work}, timeout=seconds)
    if done:
        work.result()
        return
    work.cancel()
    await asyncio.wait({work}, timeout=TURN)
    logger.error("%s did not stop within %.1f s", what, seconds)
