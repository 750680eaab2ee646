"""How long someone who reads waits for a backend that may not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.runtime.clock import Clock

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds without any answer after which a backend counts as unavailable."""
_IMPATIENCE = 0.3
"""The same, while it is known to be away."""


class Patience:
    """Waits for reads: long for a slow backend, and briefly for one that is away.

    `away`: whether the backend is known not to answer. `heard_at`: when the latest heartbeat was sent that it has
    confirmed, by the clock: a backend that confirms heartbeats is only slow.
    """

    def __init__(
        self,
        clock: Clock,
        away: Callable[[], bool],
        heard_at: Callable[[], float],
        *,
        patience: float = _PATIENCE,
        impatience: float = _IMPATIENCE,
    ) -> None:
        self._clock = clock
        self.away = away
        self._heard_at = heard_at
        self._patience = patience
        self._impatience = impatience

    async def wait_for(self, read: Coroutine[Any, Any, T]) -> T:
        """The result of a read; raises `BackendUnavailableError` if the backend answers nothing at all."""
        began = self._clock.monotonic()
        reading = asyncio.ensure_future(read)
        try:
            timeout = self._impatience if self.away() else self._patience
            while not reading.done():
                await asyncio.wait({reading}, timeout=timeout)
                if not reading.done() and self._heard_at() <= began:
                    raise BackendUnavailableError(f"the backend has not answered for {timeout:g} s")
                began, timeout = self._clock.monotonic(), self._patience
            return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
