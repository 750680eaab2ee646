"""Time limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from taskflow_otel.runtime.clock import Clock, TimerHandle


@asynccontextmanager
async def within(clock: Clock, seconds: float) -> AsyncIterator[None]:
    """Cancel the body after `seconds` of the engine's clock, and raise `TimeoutError`."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        handle = clock.call_later(seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            handle.cancel()


@asynccontextmanager
async def insistent(clock: Clock, seconds: float | None, grace: float) -> AsyncIterator[Callable[[], None]]:
    """Cancel the body after `seconds`, and again if it has not ended `grace` seconds later; raise `TimeoutError`.

    A driver may answer the first cancellation with a message to the server and wait for the result; the second one ends
    that wait. Calling the value removes the limit.
    """
    loop = asyncio.get_running_loop()
    handle: TimerHandle | None = None
    async with asyncio.timeout(None) as last, asyncio.timeout(None) as first:

        def insist() -> None:
            nonlocal handle
            # One after the other even where the loop is late for both: two cancellations at once would count as one.
            handle = clock.call_later(grace, lambda: last.reschedule(loop.time()))
            first.reschedule(loop.time())

        def lift() -> None:
            if handle is not None:
                handle.cancel()

        if seconds is not None:
            handle = clock.call_later(seconds, insist)
        try:
            yield lift
        finally:
            lift()
