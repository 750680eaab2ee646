"""When commits time out: one timer for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from taskflow_otel.engine.ledger.batch import Commit
from taskflow_otel.runtime.clock import Clock, TimerHandle

FOREVER = float("inf")
_STOOD_STILL = 0.5
"""If the timer is later than this many seconds, this process stood still; the backend was not slow."""


class Deadlines:
    """Calls `give_up` with the commits whose time is over; `pending` returns all commits.

    If this process stood still for longer than its lease, or was declared dead, commits that were `sent` get `chance`
    more seconds: the backend may have applied them, and another instance may run the task by now. Their answer, or that
    to their repetition, tells.
    """

    def __init__(
        self,
        clock: Clock,
        pending: Callable[[], Iterable[Commit]],
        give_up: Callable[[list[Commit]], None],
        *,
        sent: Callable[[Commit], bool],
        lease_holds: Callable[[], bool],
        chance: float,
    ) -> None:
        self._clock = clock
        self._pending = pending
        self._give_up = give_up
        self._sent = sent
        self._lease_holds = lease_holds
        self._chance = chance
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

    def spare(self) -> None:
        """Give the commits that were sent more time."""
        deadline = self._clock.monotonic() + self._chance
        for entry in self._pending():
            if self._sent(entry):
                entry.deadline = max(entry.deadline, deadline)

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
        now = self._clock.monotonic() + 1e-6
        if now - self._due > _STOOD_STILL and not self._lease_holds():
            self.spare()
        self._timer, self._due = None, FOREVER
        waiting = [entry for entry in self._pending() if not entry.future.done()]
        self._give_up([entry for entry in waiting if entry.deadline <= now])
        earliest = min((entry.deadline for entry in waiting if entry.deadline > now), default=FOREVER)
        if earliest != FOREVER:
            self._ring(earliest - now, earliest)
