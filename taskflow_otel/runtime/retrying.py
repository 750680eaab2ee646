"""An operation on a backend, tried again for as long as it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from taskflow_otel.errors import BackendError
from taskflow_otel.runtime.clock import Clock

T = TypeVar("T")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 1.0
"""Seconds before the second try, and between any two."""


async def retrying(clock: Clock, operation: Callable[[], Awaitable[T]]) -> T:
    """The result of `operation`, once it succeeds.

    Between two tries it waits, twice as long each time. Raises what the operation raises, unless that is a
    `BackendError` that may pass.
    """
    backoff = FIRST_BACKOFF
    while True:
        try:
            return await operation()
        except BackendError as exc:
            if not exc.transient:
                raise
            await clock.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)
