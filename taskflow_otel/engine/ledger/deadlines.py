"""When commits time out: one timer for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from taskflow_otel.engine.ledger.batch import Commit
from taskflow_otel.runtime.clock import Clock, TimerHandle

FOREVER = float("inf")


class Deadlines:
    """Calls `give_up` with the commits whose time is over; `pending` returns all commits."""

    def __init__(
        self, clock: Clock, pending: Callable[[], Iterable[Commit]], give_up: Callable[[list[Commit]], None]
    ) -> None:
        self._clock = clock
        self._pending = pending
        self._give_up = give_up
        self._timer: TimerHandle | None = None
        self._due = FOREVER
        """When the timer fires: at the earliest deadline, or before it."""

    def after(self, limit: float) -> float:
        """The deadline of a commit that starts now and may take `limit` seconds."""
        if limit == FOREVER:
            return FOREVER
        deadline = self._clock.monotonic() + limit
        if deadline < self._due:
            self._ring(limit, deadline)
        return deadline

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, FOREVER

    def _ring(self, delay: float, deadline: float) -> None:
        self.stop()
        self._due = deadline
        self._timer = self._clock.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer, self._due = None, FOREVER
        now = self._clock.monotonic() + 1e-6
        waiting = [entry for entry in self._pending() if not entry.future.done()]
        self._give_up([entry for entry in waiting if entry.deadline <= now])
        earliest = min((entry.deadline for entry in waiting if entry.deadline > now), default=FOREVER)
        if earliest != FOREVER:
            self._ring(earliest - now, earliest)
