"""A clock for tests of what asks for the time and waits for nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from taskflow_otel.runtime.clock import SystemClock

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HandClock(SystemClock):
    """A clock whose hands a test moves: `seconds` since 1970 on the wall, and since some moment."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds
