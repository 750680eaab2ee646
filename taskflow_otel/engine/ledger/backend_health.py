"""Whether writes to the backend succeed: since when they fail, what was lost, and what is logged about it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from taskflow_otel.errors import BackendError
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.throttled_report import Outage

logger: logging.Logger = logging.getLogger("taskflow_otel.ledger")

Observe = Callable[[str, str, str, float], None]
"""`(backend, operation, outcome, seconds)` of each operation."""
PATIENCE = 1.5
"""Seconds without a successful write, after which changes that wait for a lock count as a failing backend."""


class BackendHealth:
    """The health of the backend `name`, as the writer of this process sees it."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self.outage: Outage = Outage(clock)
        """The failures in a row; each noted task looks at it, without the call of `failing_since`."""
        self._held_since: float | None = None
        self.answers: int = 0
        """How many transactions the backend has committed."""
        self.dropped_history: int = 0
        """How many finished tasks and log lines were never written, because the backend failed for too long."""

    @property
    def failing_since(self) -> float | None:
        """Monotonic time at which the backend began to fail; `None` while it answers."""
        return self.outage.since

    def held(self, exc: Exception, began: float) -> None:
        """A write that began at `began` did not get its lock; if that lasts, the backend counts as failing."""
        if self._held_since is None:
            self._held_since = began
        elif self._clock.monotonic() - self._held_since > PATIENCE:
            self.failed(exc)

    def failed(self, exc: Exception) -> None:
        """A write failed and will be tried again."""
        if not isinstance(exc, BackendError):
            logger.error("the %s backend raised an error of its driver", self._name, exc_info=exc)
        if self.outage.failed():
            logger.error("the %s backend fails: %s. Trying again, with backoff.", self._name, exc)

    def lost(self, count: int, task_id: str, exc: BackendError) -> None:
        """`count` history items of a task were refused for good."""
        self.dropped_history += count
        logger.error("history of task %s could not be written and is dropped: %s", task_id, exc)

    def answered(self) -> None:
        """A transaction was committed."""
        self._held_since = None
        self.answers += 1
        lasted = self.outage.ended()
        if lasted is not None:
            logger.warning("the %s backend answers again, after %.1f s", self._name, lasted)
