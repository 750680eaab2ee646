"""How to log a recurring failure: once a minute with a count, once when it begins, or only once."""

from __future__ import annotations

import logging

from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock

logger: logging.Logger = logging.getLogger("taskflow_otel.bus")

REPORT_INTERVAL = 60.0
"""Seconds after a logged failure in which further ones are only counted."""


class Throttle:
    """Lets each message pass once in `REPORT_INTERVAL` seconds."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}

    def passes(self, message: str) -> bool:
        """Whether this message may be logged now; if so, not again for some time."""
        now = self._clock.monotonic()
        if now < self._silent_until.get(message, 0.0):
            return False
        self._silent_until[message] = now + REPORT_INTERVAL
        return True


class Once:
    """Lets each message pass only the first time."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def passes(self, message: str) -> bool:
        """Whether this message may be logged now; if so, never again."""
        if message in self._passed:
            return False
        self._passed.add(message)
        return True


class Outage:
    """Failures in a row: the first one begins an outage and should be logged; a success ends it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.failures: int = 0
        """Failures since the last success."""
        self.since: float | None = None
        """Monotonic time of the first of them; `None` without a failure."""

    def failed(self) -> bool:
        """Note a failure; return whether an outage begins with it."""
        self.failures += 1
        if self.since is not None:
            return False
        self.since = self._clock.monotonic()
        return True

    def ended(self) -> float | None:
        """Note a success; return how many seconds the outage lasted, or `None` if there was no outage."""
        since, self.since, self.failures = self.since, None, 0
        return None if since is None else self._clock.monotonic() - since


class ThrottledReport:
    """Counts the failures of several parts, and logs those of each at most once a minute."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._throttle = Throttle(clock)
        self._unreported: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        """All failures so far, by part."""

    def add(self, name: str, what: str, exc: BaseException | None = None, *, number: int = 1) -> None:
        """Count `number` failures of the part `name`; log them unless it was logged within the last minute."""
        self.counts[name] = self.counts.get(name, 0) + number
        unreported = self._unreported.get(name, 0) + number
        if not self._throttle.passes(name):
            self._unreported[name] = unreported
            return
        self._unreported[name] = 0
        logger.error("%s %s (%d times since last reported)", name, what, unreported, exc_info=exc)
