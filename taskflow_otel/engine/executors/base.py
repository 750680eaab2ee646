"""How one attempt's function is run: the contract, and the two that stay inside this process."""

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
    """The function returned an awaitable, which is awaited on the event loop, where it can be cancelled."""
    abandoned: bool = False
    """Nobody waits for the function any more; set before the awaiting task is cancelled for the last time."""


class Executor(Protocol):
    """Runs the functions of attempts.

    `run` returns what the function returned and raises what it raised. Cancelling the awaiting task must end the
    function where that is possible (async, process). Where it is not (`cancellable` is false: threads), the engine
    asks through the task context and waits.
    """

    name: str
    """One of `ExecutorKind`."""
    cancellable: bool
    capacity: int | None
    """Attempts that can run at once; `None` is no limit."""

    async def start(self) -> None:
        """Make ready what attempts need."""

    async def run(self, call: Call) -> Any:
        """Run one attempt."""

    async def close(self, timeout: float) -> None:
        """Release threads and processes, waiting for at most `timeout` seconds."""


@runtime_checkable
class PreparingExecutor(Executor, Protocol):
    """An executor that needs time before it can enter a function: time that is not the attempt's."""

    async def prepare(self, task_id: str, definition: TaskDefinition) -> None:
        """Make ready what the attempt needs, before it counts as started. A failure shows in `run`."""

    def dismiss(self, task_id: str) -> None:
        """Take back what was prepared, if the attempt did not run after all."""


class AsyncExecutor:
    """Coroutine functions, on the manager's event loop."""

    name = ExecutorKind.ASYNC.value
    cancellable = True

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity

    async def start(self) -> None:
        """Nothing to make ready."""

    async def run(self, call: Call) -> Any:
        """Await the function within the attempt's context, which is the awaiting task's own."""
        return await _awaited(call.definition.func(*call.args, **call.kwargs), call)

    async def close(self, timeout: float) -> None:
        """Nothing to release."""


async def _awaited(result: Any, call: Call) -> Any:
    """Await what a function returned, for as long as that is something to await."""
    if type(result) is types.CoroutineType:
        # What an async function returns; to ask whether anything else can be awaited takes longer than to await it.
        result = await _leashed(result, call)
    while result is not None and inspect.isawaitable(result):
        result = await (_leashed(result, call) if inspect.iscoroutine(result) else result)
    return result


@types.coroutine
def _leashed(coroutine: Coroutine[Any, Any, Any], call: Call) -> Generator[Any, Any, Any]:
    """Await a coroutine that can be ended even if it swallows its cancellation.

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
    except BaseException as exc:  # the user's clean-up code may raise anything, and nobody waits for it any more
        logger.error("%s could not be closed: %r", call.definition.name, exc)


class ThreadExecutor:
    """Plain functions, in threads of the manager's own: never those that serve sync routes.

    What they return is awaited on the event loop, if it can be. `anyio.from_thread` works in them.
    """

    name = ExecutorKind.THREAD.value
    cancellable = False

    def __init__(self, threads: int | None) -> None:
        self._size = threads or min(32, (os.cpu_count() or 1) + 4)
        self.capacity: int | None = self._size
        self._threads: TaskThreads | None = None

    async def start(self) -> None:
        """Make the pool; its threads start when they are needed."""
        self._threads = TaskThreads(self._size, "taskflow-task")

    async def run(self, call: Call) -> Any:
        """Run the function in a thread, with the attempt's context variables."""
        assert self._threads is not None, "the engine starts its executors before it dispatches"
        function = functools.partial(call.definition.func, *call.args, **call.kwargs)
        result = await self._threads.run(functools.partial(call.context.run, function))
        if not inspect.isawaitable(result):
            return result
        # A plain function around an async one: the work is still to be done, and belongs to the event loop.
        call.on_loop = True
        if call.task_context.cancelled:
            # It was asked to stop while it could not be cancelled.
            if inspect.iscoroutine(result):
                result.close()
            raise asyncio.CancelledError
        return await _awaited(result, call)

    async def close(self, timeout: float) -> None:
        """Wait for the threads, which have been asked to stop, for at most `timeout` seconds; leave the rest behind."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await threads.close(timeout)
