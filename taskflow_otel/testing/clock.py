"""A clock that a test controls: time passes only through `advance`."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_SETTLE_ROUNDS = 20


class FakeTimer:
    """The result of `FakeClock.call_later`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Cancel the call; harmless after it was made."""
        self.callback = None


class FakeClock:
    """A `taskflow_otel.runtime.clock.Clock` for `TaskManager(clock=...)`.

    `start`: the first wall time, aware. `advance` moves wall and monotonic time, and runs the timers that are due, in
    order. `set_wall` moves only the wall clock, as an administrator or NTP does.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._wall = start.astimezone(UTC)
        self._monotonic = 0.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        """The wall time that the test has set."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds that have passed through `advance`."""
        return self._monotonic

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        """Call back after `delay` seconds of `advance`."""
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + max(0.0, delay), next(self._order), timer))
        return timer

    async def sleep(self, delay: float) -> None:
        """Wait for `delay` seconds of `advance`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        timer = self.call_later(delay, wake)
        try:
            await done
        finally:
            timer.cancel()

    def set_wall(self, moment: datetime) -> None:
        """Set the wall clock; no time passes."""
        self._wall = moment.astimezone(UTC)

    async def advance(self, seconds: float) -> None:
        """Let time pass; stop at each timer, so that its effects happen at the right time."""
        end = self._monotonic + seconds
        await settle()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            if timer.callback is None:
                continue
            self._move_to(due)
            timer.callback()
            await settle()
        self._move_to(end)
        await settle()

    def _move_to(self, monotonic: float) -> None:
        self._wall += timedelta(seconds=max(0.0, monotonic - self._monotonic))
        self._monotonic = max(self._monotonic, monotonic)


async def settle() -> None:
    """Run everything that is ready on the event loop."""
    for _ in range(_SETTLE_ROUNDS):
        await asyncio.sleep(0)
