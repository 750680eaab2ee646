"""Notices when one callback keeps the event loop for long, and where the loop was then."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from taskflow_otel.compat.threads import frame_of
from taskflow_otel.model.stack import Place, place_of
from taskflow_otel.runtime.clock import Clock

_LATE = 1.5
"""A wait that takes longer by this factor says that this thread did not get to run."""


T = TypeVar("T")


class Block(NamedTuple, Generic[T]):
    """A time in which the event loop gave no sign."""

    seconds: float
    """At least so long: the watch begins with a question, and the callback may have begun before."""
    blamed: T | None
    """Who ran, as `who` says; `None` for others, and if nobody is blamed."""
    places: tuple[Place, ...]
    """Where the loop was, the outermost place first; empty if nobody is blamed."""


class BlockWatch(Generic[T]):
    """A thread that asks the event loop for a sign, and looks where it is if that does not come within `after` seconds.

    It asks only while `busy` returns true, so that an idle process sleeps. `who` gives what an asyncio task runs for;
    both are called in the thread. `on_block` is called on the event loop.

    Two looks must find the same asyncio task: many short steps in a row are nobody's fault. And nothing is blamed for a
    time in which this thread was late too: the process was stopped, or others kept the processor or the interpreter.
    """

    def __init__(
        self,
        after: float,
        busy: Callable[[], bool],
        who: Callable[[asyncio.Task[Any]], T | None],
        on_block: Callable[[Block[T]], None],
        clock: Clock,
        *,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._after = after
        self._busy = busy
        self._who = who
        self._on_block = on_block
        self._clock = clock
        self._wait = wait
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch the running event loop."""
        self._stopped = threading.Event()
        arguments = (asyncio.get_running_loop(), threading.get_ident(), self._stopped)
        threading.Thread(target=self._watch, args=arguments, name="taskflow-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; the thread ends by itself, without a further report."""
        self._stopped.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int, stopped: threading.Event) -> None:
        while not self._wait(stopped, self._after):
            if not self._busy():
                continue
            try:
                block = self._ask(loop, thread, stopped)
                if block is not None and not stopped.is_set():
                    loop.call_soon_threadsafe(self._on_block, block)
            except RuntimeError:
                # The event loop was closed without a stop.
                return

    def _ask(self, loop: asyncio.AbstractEventLoop, thread: int, stopped: threading.Event) -> Block[T] | None:
        """Ask once, and wait for the sign however long it takes."""
        given = threading.Event()
        answered = asked = self._clock.monotonic()

        def give() -> None:
            nonlocal answered
            answered = self._clock.monotonic()
            given.set()

        loop.call_soon_threadsafe(give)
        if self._in_time(given, self._after) is not False:
            # It was given, or this thread is too late to judge; then the loop is asked anew.
            return None
        first = asyncio.current_task(loop)
        blamed = self._in_time(given, self._after / 2) is False and asyncio.current_task(loop) is first
        places = self._places(thread) if blamed else ()
        if places and places[-1].file == selectors.__file__:
            # The loop has nothing to do: it waits to be woken, which takes long because others have the processor.
            blamed, places = False, ()
        found = self._who(first) if blamed and first is not None else None
        while not self._wait(given, self._after):
            if stopped.is_set():
                return None
        return Block(answered - asked, found, places)

    def _in_time(self, event: threading.Event, seconds: float) -> bool | None:
        """Whether the event was set within these seconds; `None` if this thread woke up late without it."""
        began = self._clock.monotonic()
        if self._wait(event, seconds):
            return True
        return False if self._clock.monotonic() - began <= _LATE * seconds else None

    @staticmethod
    def _places(thread: int) -> tuple[Place, ...]:
        found: list[Place] = []
        frame = frame_of(thread)
        while frame is not None:
            found.append(place_of(frame))
            frame = frame.f_back
        return tuple(reversed(found))
