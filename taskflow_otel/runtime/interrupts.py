"""Listening for signals that other code handles."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType


@contextmanager
def on_signals(numbers: tuple[signal.Signals, ...], callback: Callable[[], None]) -> Iterator[None]:
    """Call back on the running event loop for each of these signals inside; the previous handlers still run.

    No effect outside the main thread, and for signals that Python does not handle.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                stack.enter_context(_on_signal(number, callback))
        yield


@contextmanager
def _on_signal(number: signal.Signals, callback: Callable[[], None]) -> Iterator[None]:
    previous = signal.getsignal(number)
    if not callable(previous):
        yield
        return
    loop = asyncio.get_running_loop()
    listening = True

    def handle(number: int, frame: FrameType | None) -> None:
        # It stays in the chain if other code has wrapped it and keeps it.
        if listening:
            loop.call_soon_threadsafe(callback)
        previous(number, frame)

    # A handler that was added to the loop gets the signal through the wakeup file descriptor in any case.
    signal.signal(number, handle)
    try:
        yield
    finally:
        listening = False
        if signal.getsignal(number) is handle:
            signal.signal(number, previous)
