"""A failure that recurs is logged at most once a minute, with the number of times that it happened."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger("taskflow_otel.bus")

REPORT_INTERVAL = 60.0
"""Seconds for which a failure that was logged is only counted."""


class Throttle:
    """Says of each of several messages whether it may pass: once in `REPORT_INTERVAL` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}

    def passes(self, message: str) -> bool:
        """Whether this message may be logged now; it may not be again for a while then."""
        now = self._clock()
        if now < self._silent_until.get(message, 0.0):
            return False
        self._silent_until[message] = now + REPORT_INTERVAL
        return True


class ThrottledReport:
    """Counts the failures of several parts, and logs those of each at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._throttle = Throttle(clock)
        self._unreported: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        """All failures so far, by part."""

    def add(self, name: str, what: str, exc: BaseException | None = None, *, number: int = 1) -> None:
        """Count `number` failures of the part `name`, and log them unless that was done within the last minute."""
        self.counts[name] = self.counts.get(name, 0) + number
        unreported = self._unreported.get(name, 0) + number
        if not self._throttle.passes(name):
            self._unreported[name] = unreported
            return
        self._unreported[name] = 0
        logger.error("%s %s (%d times since last reported)", name, what, unreported, exc_info=exc)
