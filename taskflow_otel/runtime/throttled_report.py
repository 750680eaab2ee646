"""How a failure that recurs is logged: once a minute with its number, once when it begins, or once for all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from taskflow_otel.runtime.clock import Clock

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


class Once:
    """Says of each of several messages whether it may pass: the first time."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def passes(self, message: str) -> bool:
        """Whether this message may be logged now; it may not be again."""
        if message in self._passed:
            return False
        self._passed.add(message)
        return True


class Outage:
    """Failures in a row: the first begins an outage and is to be logged, a success ends it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.failures = 0
        """Failures since the last success."""
        self.since: float | None = None
        """Monotonic time of the first of them; `None` where there is none."""

    def failed(self) -> bool:
        """Note a failure; whether an outage begins with it."""
        self.failures += 1
        if self.since is not None:
            return False
        self.since = self._clock.monotonic()
        return True

    def ended(self) -> float | None:
        """Note a success; the seconds that the outage lasted which it ends, `None` where there was none."""
        since, self.since, self.failures = self.since, None, 0
        return None if since is None else self._clock.monotonic() - since


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
