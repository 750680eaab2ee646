"""All waits of the engine in one heap, with one timer on the event loop."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable
from datetime import datetime

from taskflow_otel.runtime.clock import Clock, TimerHandle

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

# A wait for a wall time is checked this often, to notice that the clock was set.
_RECHECK_SECONDS = 30.0
_SLICE = 200
"""Waits that end in one callback of the event loop before others get their turn."""
_FEW = 64
"""Cancelled waits that may always stay in the heap."""


class Timer:
    """One wait that can be cancelled."""

    __slots__ = ("_owner", "callback", "until")

    def __init__(self, owner: Timers, callback: Callable[[], None], until: datetime | None) -> None:
        self._owner = owner
        self.callback: Callable[[], None] | None = callback
        self.until: datetime | None = until

    def end(self) -> None:
        """End the wait now; harmless after its end."""
        callback = self.callback
        self.cancel()
        if callback is not None:
            _call(callback)

    def cancel(self) -> None:
        """Cancel the wait; harmless after its end."""
        if self.callback is not None:
            self.callback = None
            self._owner.cancelled()


class Timers:
    """Calls back after a delay (monotonic clock) or at a time of the wall clock, even if that clock is set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._handle: TimerHandle | None = None
        self._armed_for = float("inf")
        self._dead = 0

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back after `delay` seconds, even if the wall clock is set."""
        timer = Timer(self, callback, None)
        self._push(self._clock.monotonic() + max(0.0, delay), timer)
        return timer

    def at(self, moment: datetime, callback: Callable[[], None]) -> Timer:
        """Call back once the wall clock shows `moment`."""
        timer = Timer(self, callback, moment)
        self._push(self._next_look(moment), timer)
        return timer

    def look(self) -> None:
        """End the waits that are over, those for a time of the wall clock included.

        While a host was frozen, the monotonic clock may have stood still: they would end up to half a minute later.
        """
        now, wall = self._clock.monotonic(), self._clock.now()
        for place, (due, order, timer) in enumerate(self._heap):
            if timer.until is not None and timer.until <= wall and due > now:
                self._heap[place] = now, order, timer
        heapq.heapify(self._heap)
        self._disarm()
        self._fire()

    def clear(self) -> None:
        """Cancel all waits."""
        for _, _, timer in self._heap:
            timer.callback = None
        self._heap.clear()
        self._dead = 0
        self._disarm()

    def cancelled(self) -> None:
        """Count a cancelled wait; when most of the heap is cancelled, it is cleaned."""
        self._dead += 1
        if self._dead > _FEW and self._dead > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def _next_look(self, moment: datetime) -> float:
        remaining = (moment - self._clock.now()).total_seconds()
        return self._clock.monotonic() + min(max(0.0, remaining), _RECHECK_SECONDS)

    def _push(self, due: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (due, next(self._order), timer))
        self._arm()

    def _arm(self) -> None:
        if not self._heap or self._heap[0][0] >= self._armed_for:
            return
        self._disarm()
        self._armed_for = self._heap[0][0]
        self._handle = self._clock.call_later(max(0.0, self._armed_for - self._clock.monotonic()), self._fire)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_for = float("inf")

    def _fire(self) -> None:
        self._handle = None
        self._armed_for = float("inf")
        now = self._clock.monotonic()
        for _ in range(_SLICE):
            if not self._heap or self._heap[0][0] > now + 1e-4:
                break
            timer = heapq.heappop(self._heap)[2]
            if timer.callback is None:
                self._dead = max(0, self._dead - 1)
            elif timer.until is not None and self._clock.now() < timer.until:
                heapq.heappush(self._heap, (max(now + 1e-3, self._next_look(timer.until)), next(self._order), timer))
            else:
                _call(timer.callback)
                timer.callback = None
        self._arm()


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        # An exception must not stop the other waits.
        logger.critical("a timer of the engine failed", exc_info=True)
