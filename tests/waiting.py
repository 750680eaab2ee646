"""Waiting: for a condition with a deadline, where there is no event to await, and for an event whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

LONG = 90.0
"""Seconds: for the start of several processes on a busy machine whose disk takes a second for each commit."""


def wait_until(condition: Callable[[], bool], what: str, *, timeout: float = LONG, interval: float = 0.02) -> None:
    """Poll until `condition()` holds; raises `TimeoutError` naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout:g} s")
        time.sleep(interval)


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], what: str, *, timeout: float = LONG, interval: float = 0.02
) -> None:
    """Await until `condition()`, plain or a coroutine function, holds; raises `TimeoutError` naming `what`."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout:g} s")
        await asyncio.sleep(interval)


async def stubbornly(event: asyncio.Event) -> None:
    """Wait for an event, and ignore each cancellation until then."""
    while not event.is_set():
        try:
            await event.wait()
        except asyncio.CancelledError:
            continue
