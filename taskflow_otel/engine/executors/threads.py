"""The threads that run plain functions: a pool whose threads can be abandoned."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from anyio.lowlevel import current_token

from taskflow_otel.compat.anyio import serve_loop

# The outcome of a function is passed as a value: a future would change a `StopIteration`, and awaiting a future
# that raises `GeneratorExit` closes the waiting coroutines.
_Outcome = tuple[Any, BaseException | None]
_WorkItem = tuple[Callable[[], Any], asyncio.Future[_Outcome]]


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
