"""The engine's maintenance services: one shape, one way to start and stop, and none dies of one exception."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from taskflow_otel.errors import BackendError
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.retrying import Backoff
from taskflow_otel.runtime.throttled_report import Outage

logger = logging.getLogger("taskflow_otel.engine")

_LONGEST_BACKOFF = 30.0


class Service(ABC):
    """Does `tick` every `interval` seconds in a task that it owns.

    A failing tick is logged at its first failure, counted in `failures`, and tried again with backoff, up to
    `longest_backoff` seconds.
    """

    def __init__(self, name: str, interval: float, clock: Clock, *, longest_backoff: float = _LONGEST_BACKOFF) -> None:
        self.name = name
        self.failures = 0
        self._interval = interval
        self._backoff = Backoff(2 * interval, max(interval, longest_backoff))
        self._outage = Outage(clock)
        self._clock = clock
        self._loop_task: asyncio.Task[None] | None = None

    @abstractmethod
    async def tick(self) -> None:
        """Do one round of the service's work."""

    async def start(self) -> None:
        """Start the rounds, the first of them after one interval."""
        self._loop_task = asyncio.create_task(self._rounds(), name=f"taskflow-{self.name}")

    async def stop(self) -> None:
        """Stop; a round under way is cancelled."""
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def introduce(self) -> None:  # noqa: B027  # most services have nothing to say
        """Make known what must be known of this instance before it changes anything: at the start, and when it goes
        on under a new id."""

    async def finish(self) -> None:  # noqa: B027  # most services have nothing left to do
        """Do what is left at a shutdown, once nothing runs any more and every outcome is written."""

    async def _rounds(self) -> None:
        # Not only until it is cancelled: a driver that a cancellation meets may turn it into an error of its own.
        while self._loop_task is not None:
            failures = self._outage.failures
            await self._clock.sleep(self._backoff.after(failures) if failures else self._interval)
            try:
                await self.tick()
            except Exception as exc:
                self.failures += 1
                if self._outage.failed():
                    logger.error(
                        "the %s service failed and goes on trying: %s",
                        self.name,
                        exc,
                        exc_info=None if isinstance(exc, BackendError) else exc,
                    )
            else:
                if self._outage.ended() is not None:
                    logger.warning("the %s service works again", self.name)
