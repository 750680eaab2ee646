"""How one attempt's function is run: on the event loop, in a thread, (in a process)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from taskflow_otel.engine.context import TaskContext
from taskflow_otel.engine.registry import TaskDefinition


@dataclass(slots=True)
class Call:
    """One attempt, ready to run."""

    definition: TaskDefinition
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: Context
    """The attempt's own context variables, with the task context and the attempt's span in them."""
    task_context: TaskContext
    payload: str | None


class Executor(Protocol):
    """Runs the functions of attempts.

    `run` returns what the function returned and raises what it raised. Cancelling the awaiting task must end the
    function where that is possible (async, process). Where it is not (`cancellable` is false: threads), the engine
    asks through the task context and waits.
    """

    name: str
    cancellable: bool
    capacity: int | None
    """Attempts that can run at once; `None` is no limit."""

    async def start(self) -> None:
        """Make ready what attempts need."""

    async def run(self, call: Call) -> Any:
        """Run one attempt."""

    async def close(self, timeout: float) -> None:
        """Release threads and processes, waiting for at most `timeout` seconds."""


class AsyncExecutor:
    """Coroutine functions, on the manager's event loop."""

    name = "async"
    cancellable = True

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity

    async def start(self) -> None:
        """Nothing to make ready."""

    async def run(self, call: Call) -> Any:
        """Await the function within the attempt's context, which is the awaiting task's own."""
        return await call.definition.func(*call.args, **call.kwargs)

    async def close(self, timeout: float) -> None:
        """Nothing to release."""


class ThreadExecutor:
    """Plain functions, in a thread pool of the manager's own: never the one that serves sync routes."""

    name = "thread"
    cancellable = False

    def __init__(self, threads: int | None) -> None:
        self.capacity: int | None = threads or min(32, (os.cpu_count() or 1) + 4)
        self._pool: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Create the pool; its threads start when they are needed."""
        self._pool = ThreadPoolExecutor(max_workers=self.capacity, thread_name_prefix="taskflow-task")

    async def run(self, call: Call) -> Any:
        """Run the function in a thread, with the attempt's context variables."""
        assert self._pool is not None, "the engine starts its executors before it dispatches"

        def enter() -> Any:
            return call.definition.func(*call.args, **call.kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pool, _no_stop_iteration, call.context, enter)

    async def close(self, timeout: float) -> None:
        """Wait for the threads, which have been asked to stop, for at most `timeout` seconds."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        pool.shutdown(wait=False, cancel_futures=True)
        # Joining blocks, so it happens beside the loop; a stuck thread must not hold the shutdown up.
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def join() -> None:
            pool.shutdown(wait=True)
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, done)

        joiner = threading.Thread(target=join, name="taskflow-join", daemon=True)
        joiner.start()
        try:
            await asyncio.wait_for(done, timeout)
        except TimeoutError:
            return
        joiner.join()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _no_stop_iteration(context: Context, enter: Callable[[], Any]) -> Any:
    """Run in the context; a `StopIteration` cannot pass through a future, so it travels as a `RuntimeError`."""
    try:
        return context.run(enter)
    except StopIteration as exc:
        raise RuntimeError("the task raised StopIteration") from exc
