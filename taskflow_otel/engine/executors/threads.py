"""The executor of plain functions: they run in threads of their own pool, which can be abandoned."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from anyio.lowlevel import current_token

from taskflow_otel.compat.anyio import serve_loop
from taskflow_otel.compat.threads import frame_of
from taskflow_otel.engine.executors.awaiting import awaited, places_in
from taskflow_otel.engine.executors.base import Call
from taskflow_otel.model.stack import Place, place_of
from taskflow_otel.model.vocabulary import ExecutorKind

# The outcome of a function is passed as a value: a future would change a `StopIteration`, and awaiting a future
# that raises `GeneratorExit` closes the waiting coroutines.
_Outcome = tuple[Any, BaseException | None]
_WorkItem = tuple[Callable[[], Any], asyncio.Future[_Outcome]]


class ThreadExecutor:
    """Plain functions, in the manager's own threads: never in those that serve sync routes.

    An awaitable result is awaited on the event loop. `anyio.from_thread` works in the functions.
    """

    name: str = ExecutorKind.THREAD.value
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
        result = await self._threads.run(functools.partial(contextvars.copy_context().run, _in_thread, call, function))
        if not inspect.isawaitable(result):
            return result
        # A plain function around an async one: the work itself is still to come, on the event loop.
        call.on_loop = True
        if call.task_context.cancelled:
            # It was asked to stop while it was in the thread, where it could not be cancelled.
            if inspect.iscoroutine(result):
                result.close()
            raise asyncio.CancelledError
        return await awaited(result, call)

    def look(self, call: Call, attempt: asyncio.Task[None], tell: Callable[[Sequence[Place]], None]) -> None:
        """Look at the frames of the thread; an awaitable result is looked at where it is awaited."""
        if call.on_loop:
            tell(places_in(attempt))
        elif call.thread is not None:
            tell(_places_of(call))

    async def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the threads, which were asked to stop; abandon the rest."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await threads.close(timeout)


def _in_thread(call: Call, function: Callable[[], Any]) -> Any:
    call.thread = threading.get_ident()
    try:
        return function()
    finally:
        call.thread = None


def _places_of(call: Call) -> list[Place]:
    thread = call.thread
    frame = None if thread is None else frame_of(thread)
    places: list[Place] = []
    while frame is not None and frame.f_code is not _in_thread.__code__:
        places.append(place_of(frame))
        frame = frame.f_back
    # The thread may have gone on to another task: it says so before it leaves the function of this one.
    return places[::-1] if frame is not None and call.thread == thread else []


class TaskThreads:
    """Up to `size` threads, started when they are needed. Call all methods on the event loop's thread.

    Not a `ThreadPoolExecutor`: the interpreter joins its threads at exit, so one task that ignores its cancellation
    would keep the process alive. These are daemon threads: joined if they end in time, else abandoned.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._token = current_token()
        self._work_items: SimpleQueue[_WorkItem | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        # One permit for each idle thread that has no work assigned yet.
        self._idle = threading.Semaphore(0)
        self._running = 0
        self._empty = asyncio.Event()
        self._empty.set()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` in one of the threads; return its result or raise its exception.

        If this is cancelled, the function runs on, and its outcome is dropped.
        """
        future: asyncio.Future[_Outcome] = self._loop.create_future()
        self._work_items.put((function, future))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
            self._start_thread()
        result, exc = await future
        if exc is None:
            return result
        try:
            raise exc
        finally:
            # The exception holds this frame.
            del exc

    async def close(self, timeout: float) -> None:
        """End the threads; wait up to `timeout` seconds for those that work."""
        for _ in self._threads:
            self._work_items.put(None)
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            return
        for thread in self._threads:
            # The thread has reported its end, so this returns at once.
            thread.join()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self._threads)}", daemon=True)
        self._running += 1
        self._empty.clear()
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        serve_loop(self._token)
        while (item := self._work_items.get()) is not None:
            self._do(*item)
            # No object of the task may stay alive while the thread waits for the next one.
            del item
            self._idle.release()
        self._tell(self._ended)

    def _do(self, function: Callable[[], Any], future: asyncio.Future[_Outcome]) -> None:
        outcome: _Outcome
        try:
            outcome = function(), None
        except BaseException as exc:  # whatever the user's function raises, the attempt decides about it
            outcome = None, exc
        self._tell(_settle, future, outcome)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop was closed after this thread was abandoned: no one waits for the outcome.
            return

    def _ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._empty.set()


def _settle(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
