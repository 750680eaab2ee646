"""An operation on a backend, tried again for as long as it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from taskflow_otel.errors import BackendError
from taskflow_otel.runtime.clock import Clock

T = TypeVar("T")


async def retrying(clock: Clock, operation: Callable[[], Awaitable[T]], *, first: float, longest: float) -> T:
    """The result of `operation`, once it succeeds.

    Between two tries it waits `first` seconds, then twice as long each time, `longest` at most. Raises what the
    operation raises, unless that is a `BackendError` that may pass.
    """
    backoff = first
    while True:
        try:
            return await operation()
        except BackendError as exc:
            if not exc.transient:
                raise
            await clock.sleep(backoff)
            backoff = min(backoff * 2, longest)
