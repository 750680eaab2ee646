"""The one way to repeat a failed operation: the operation, the waits between tries, and the decision to give up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from taskflow_otel.errors import BackendError
from taskflow_otel.runtime.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between tries: `first` seconds, doubled after each further failure, up to `longest`."""

    first: float
    longest: float

    def after(self, failures: int) -> float:
        """Seconds to wait after `failures` failures in a row (at least one)."""
        return min(self.first * 2.0 ** min(failures - 1, 64), self.longest)


BACKEND = Backoff(first=0.05, longest=1.0)
"""For one operation on a backend."""


def raise_lasting(exc: Exception, _wait: float) -> None:
    """Raise the exception unless it is a transient `BackendError`."""
    if not isinstance(exc, BackendError) or not exc.transient:
        raise exc


async def retrying(
    clock: Clock,
    operation: Callable[[], Awaitable[T]],
    *,
    backoff: Backoff = BACKEND,
    judge: Callable[[Exception, float], None] = raise_lasting,
) -> T:
    """Repeat `operation` until it succeeds; return its result.

    `judge` gets each exception, and the seconds until the next try. It raises to give up; otherwise the operation is
    tried again.
    """
    failures = 0
    while True:
        try:
            return await operation()
        except Exception as exc:
            failures += 1
            judge(exc, backoff.after(failures))
        await clock.sleep(backoff.after(failures))
