"""A clock that a test turns: time passes only when it is told to."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_SETTLE_ROUNDS = 20


class FakeTimer:
    """What `FakeClock.call_later` returns."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Take the call back; harmless once it has been made."""
        self.callback = None


class FakeClock:
    """A `taskflow_otel.runtime.clock.Clock` for `TaskManager(clock=...)`.

    `start`: the wall time it begins at, aware. `advance` moves wall and monotonic time and makes what has become due
    happen, in order; `set_wall` moves the wall alone, as an administrator or NTP does.
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
        """Seconds that the test has let pass."""
        return self._monotonic

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        """Call back once the test has let `delay` seconds pass."""
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + max(0.0, delay), next(self._order), timer))
        return timer

    async def sleep(self, delay: float) -> None:
        """Wait until the test has let `delay` seconds pass."""
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
        """Set the wall clock without letting time pass."""
        self._wall = moment.astimezone(UTC)

    async def advance(self, seconds: float) -> None:
        """Let time pass, stopping at each timer on the way so that what it starts happens at its moment."""
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
    """Let everything that is ready to run on the event loop run."""
    for _ in range(_SETTLE_ROUNDS):
        await asyncio.sleep(0)
