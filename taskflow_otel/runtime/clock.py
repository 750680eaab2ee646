"""Time as the engine sees it, so that tests can turn it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, datetime
from typing import Protocol


class TimerHandle(Protocol):
    """What `Clock.call_later` returns."""

    def cancel(self) -> None:
        """Take the call back; harmless once it has been made."""


class Clock(Protocol):
    """Wall time for records, monotonic time for durations, and timers."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back on the event loop after `delay` seconds."""

    async def sleep(self, delay: float) -> None:
        """Wait for `delay` seconds."""


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    # The functions themselves, without a call around them: each task asks for the time seven times.
    now = staticmethod(functools.partial(datetime.now, UTC))
    monotonic = staticmethod(time.monotonic)

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        # In a context of its own: that of whoever sets the timer, a request perhaps, must not live as long.
        return asyncio.get_running_loop().call_later(delay, callback, context=Context())

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)
