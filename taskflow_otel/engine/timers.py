"""All the engine's waits in one heap with one timer on the event loop."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import datetime

from taskflow_otel.engine.clock import Clock, TimerHandle

# A wait for a wall time is looked at again this often, so that a clock that was set is noticed.
_RECHECK_SECONDS = 30.0


class Timer:
    """One wait; `cancel()` takes it back."""

    __slots__ = ("callback", "until")

    def __init__(self, callback: Callable[[], None] | None, until: datetime | None) -> None:
        self.callback = callback
        self.until = until

    def cancel(self) -> None:
        """Take the wait back; harmless once it is over."""
        self.callback = None


class Timers:
    """Calls back after a delay (monotonic) or at a wall time (which follows a clock that is set)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._handle: TimerHandle | None = None
        self._armed_for = float("inf")

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back once `delay` seconds have passed, whatever the wall clock does."""
        timer = Timer(callback, None)
        self._push(self._clock.monotonic() + max(0.0, delay), timer)
        return timer

    def at(self, moment: datetime, callback: Callable[[], None]) -> Timer:
        """Call back once the wall clock shows `moment`."""
        timer = Timer(callback, moment)
        self._push(self._next_look(moment), timer)
        return timer

    def clear(self) -> None:
        """Take every wait back."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_for = float("inf")

    def _next_look(self, moment: datetime) -> float:
        remaining = (moment - self._clock.now()).total_seconds()
        return self._clock.monotonic() + min(max(0.0, remaining), _RECHECK_SECONDS)

    def _push(self, due: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (due, next(self._order), timer))
        self._arm()

    def _arm(self) -> None:
        if not self._heap or self._heap[0][0] >= self._armed_for:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = self._heap[0][0]
        self._handle = self._clock.call_later(max(0.0, self._armed_for - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed_for = float("inf")
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now + 1e-4:
            timer = heapq.heappop(self._heap)[2]
            if timer.callback is None:
                continue
            if timer.until is not None and self._clock.now() < timer.until:
                heapq.heappush(self._heap, (max(now + 1e-3, self._next_look(timer.until)), next(self._order), timer))
                continue
            callback, timer.callback = timer.callback, None
            callback()
        self._arm()
