"""The engine's maintenance services: one way to start and stop, and no exception ends a service."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from taskflow_otel.errors import BackendError
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.retrying import Backoff
from taskflow_otel.runtime.throttled_report import Outage

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_LONGEST_BACKOFF = 30.0


class Service(ABC):
    """Calls `tick` every `interval` seconds, in an asyncio task that it owns.

    A failing tick is logged at the first failure, counted in `failures`, and repeated with a backoff of up to
    `longest_backoff` seconds.
    """

    def __init__(self, name: str, interval: float, clock: Clock, *, longest_backoff: float = _LONGEST_BACKOFF) -> None:
        self.name = name
        self.failures: int = 0
        self._interval = interval
        self._backoff = Backoff(2 * interval, max(interval, longest_backoff))
        self._outage = Outage(clock)
        self._clock = clock
        self._loop_task: asyncio.Task[None] | None = None

    @abstractmethod
    async def tick(self) -> None:
        """Do one round of the service's work."""

    async def start(self) -> None:
        """Start the rounds, the first one after one interval."""
        self._loop_task = asyncio.create_task(self._rounds(), name=f"taskflow-{self.name}")

    async def stop(self) -> None:
        """Stop; a running round is cancelled."""
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def introduce(self) -> None:  # noqa: B027  # most services store nothing
        """Store what must be known of this instance before it changes anything: at the start, and after a change of
        its id."""

    async def finish(self) -> None:  # noqa: B027  # most services have nothing to finish
        """Do the last work of a shutdown, after all tasks have ended and every outcome is written."""

    def count_failure(self) -> None:
        """Count a failure of work beside the rounds."""
        self.failures += 1

    async def _rounds(self) -> None:
        # A cancellation alone does not end the loop: a driver may turn it into an error.
        while self._loop_task is not None:
            failures = self._outage.failures
            await self._clock.sleep(self._backoff.after(failures) if failures else self._interval)
            try:
                await self.tick()
            except Exception as exc:
                self.failures += 1
                if self._outage.failed():
                    logger.error(
                        "the %s service failed and will try again: %s",
                        self.name,
                        exc,
                        exc_info=None if isinstance(exc, BackendError) else exc,
                    )
            else:
                if self._outage.ended() is not None:
                    logger.warning("the %s service works again", self.name)
