"""How the function of one attempt is run: the contract, and the two executors inside this process."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from taskflow_otel.engine.context import TaskContext
from taskflow_otel.engine.executors.threads import TaskThreads
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.model.vocabulary import ExecutorKind

logger = logging.getLogger("taskflow_otel.engine")


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
    on_loop: bool = False
    """The function returned an awaitable. It is awaited on the event loop, where it can be cancelled."""
    abandoned: bool = False
    """No one waits for the function any more; set before the awaiting task is cancelled for the last time."""


class Executor(Protocol):
    """Runs the functions of attempts.

    `run` returns the function's result and raises its exception. Cancelling the awaiting task must end the function
    if that is possible (async, process). If not (`cancellable` is false: threads), the engine asks through the task
    context and waits.
    """

    name: str
    """One of `ExecutorKind`."""
    cancellable: bool
    capacity: int | None
    """Attempts that can run at once; `None` is no limit."""

    async def start(self) -> None:
        """Prepare what attempts need."""

    async def run(self, call: Call) -> Any:
        """Run one attempt."""

    async def close(self, timeout: float) -> None:
        """Release threads and processes, waiting for at most `timeout` seconds."""


@runtime_checkable
class PreparingExecutor(Executor, Protocol):
    """An executor that needs time before it can enter a function; this time is not part of the attempt."""

    async def prepare(self, task_id: str, definition: TaskDefinition) -> None:
        """Prepare what the attempt needs, before it counts as started. `run` raises a failure."""

    def dismiss(self, task_id: str) -> None:
        """Release what was prepared, if the attempt did not run."""


class AsyncExecutor:
    """Coroutine functions, on the manager's event loop."""

    name = ExecutorKind.ASYNC.value
    cancellable = True

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity

    async def start(self) -> None:
        """Nothing to prepare."""

    async def run(self, call: Call) -> Any:
        """Await the function in the attempt's context, which is that of the awaiting task."""
        result = call.definition.func(*call.args, **call.kwargs)
        if type(result) is types.CoroutineType:
            # The result of an async function. The check for other awaitables costs more than the await.
            result = await _leashed(result, call)
        return result if result is None else await _awaited(result, call)

    async def close(self, timeout: float) -> None:
        """Nothing to release."""


async def _awaited(result: Any, call: Call) -> Any:
    """Await the result of a function, and again as long as the result is an awaitable."""
    while result is not None and inspect.isawaitable(result):
        result = await (_leashed(result, call) if inspect.iscoroutine(result) else result)
    return result


@types.coroutine
def _leashed(coroutine: Coroutine[Any, Any, Any], call: Call) -> Generator[Any, Any, Any]:
    """Await a coroutine in a way that can end it even if it swallows its cancellation.

    Once the call is abandoned, a cancellation is no longer passed on: the coroutine is closed where it waits.
    """
    step: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    while True:
        try:
            awaited = step(argument)
        except StopIteration as done:
            return done.value
        try:
            argument = yield awaited
            step = coroutine.send
        except BaseException as exc:
            if call.abandoned or isinstance(exc, GeneratorExit):
                _close(coroutine, call)
                raise
            step, argument = coroutine.throw, exc


def _close(coroutine: Coroutine[Any, Any, Any], call: Call) -> None:
    try:
        coroutine.close()
    except BaseException as exc:  # the user's clean-up code may raise anything, and no one waits for it any more
        logger.error("%s could not be closed: %r", call.definition.name, exc)


class ThreadExecutor:
    """Plain functions, in the manager's own threads: never in those that serve sync routes.

    An awaitable result is awaited on the event loop. `anyio.from_thread` works in the functions.
    """

    name = ExecutorKind.THREAD.value
    cancellable = False

    def __init__(self, threads: int | None) -> None:
        self._size = threads or min(32, (os.cpu_count() or 1) + 4)
        self.capacity: int | None = self._size
        self._threads: TaskThreads | None = None

    async def start(self) -> None:
        """Create the pool; its threads start when they are needed."""
        self._threads = TaskThreads(self._size, "taskflow-task")

    async def run(self, call: Call) -> Any:
        """Run the function in a thread, with the attempt's context variables."""
        assert self._threads is not None, "the engine starts its executors before it dispatches"
        function = functools.partial(call.definition.func, *call.args, **call.kwargs)
        result = await self._threads.run(functools.partial(call.context.run, function))
        if not inspect.isawaitable(result):
            return result
        # A plain function around an async one: the work itself is still to come, on the event loop.
        call.on_loop = True
        if call.task_context.cancelled:
            # It was asked to stop while it was in the thread, where it could not be cancelled.
            if inspect.iscoroutine(result):
                result.close()
            raise asyncio.CancelledError
        return await _awaited(result, call)

    async def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the threads, which were asked to stop; abandon the rest."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await threads.close(timeout)
