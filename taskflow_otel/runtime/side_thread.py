"""A thread that makes calls which may block, one after the other, so that the event loop never waits for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

T = TypeVar("T")


class SideThread:
    """Makes calls in the order in which they were submitted. `capacity`: the most that wait.

    The thread is a daemon: a call that never returns does not keep the process alive.
    """

    def __init__(self, name: str, capacity: int) -> None:
        self._name = name
        self._capacity = capacity
        self._line: queue.SimpleQueue[Callable[[], object] | None] | None = None

    def start(self) -> None:
        """Start the thread. After a fork, the child needs one of its own."""
        line: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._line = line
        threading.Thread(target=_work, args=(line,), name=self._name, daemon=True).start()

    def submit(self, call: Callable[[], object]) -> bool:
        """Have a call made that raises nothing; return whether there was room for it. Callable from any thread."""
        line = self._line
        if line is None or line.qsize() >= self._capacity:
            return False
        line.put(call)
        return True

    async def ask(self, call: Callable[[], T]) -> T:
        """The result of a call, after the calls before it. Raises what it raises, and `TimeoutError` without room."""
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def make() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(call())
            except BaseException as exc:
                answer.set_exception(exc)

        if not self.submit(make):
            raise TimeoutError(f"too many calls wait for the thread {self._name}")
        return await asyncio.wrap_future(answer)

    async def stop(self, last: Callable[[], object]) -> None:
        """Make the calls that wait, then `last`, and end the thread."""
        line = self._line
        if line is None:
            return
        self._line = None
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()

        def end() -> None:
            try:
                last()
            except Exception as exc:
                logger.warning("the last call of the thread %s failed: %s", self._name, exc)
            if ended.set_running_or_notify_cancel():
                ended.set_result(None)

        line.put(end)
        line.put(None)
        await asyncio.wrap_future(ended)


def _work(line: queue.SimpleQueue[Callable[[], object] | None]) -> None:
    while (call := line.get()) is not None:
        call()
