"""Time as the engine sees it, so that tests can control it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, datetime
from typing import Protocol


class TimerHandle(Protocol):
    """The result of `Clock.call_later`."""

    def cancel(self) -> None:
        """Cancel the call; harmless after it was made."""


class Clock(Protocol):
    """Wall time for records, monotonic time for durations, and timers."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back on the event loop after `delay` seconds."""

    async def sleep(self, delay: float) -> None:
        """Wait for `delay` seconds."""


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    # The functions themselves, not methods that call them: each task reads the time seven times.
    now: Callable[[], datetime] = staticmethod(functools.partial(datetime.now, UTC))
    monotonic: Callable[[], float] = staticmethod(time.monotonic)

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        # In an empty context: the caller's context, perhaps of a request, must not live as long as the timer.
        return asyncio.get_running_loop().call_later(delay, callback, context=Context())

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


SYSTEM_CLOCK: Clock = SystemClock()
"""The default clock."""
