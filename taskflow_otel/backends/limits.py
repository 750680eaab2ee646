"""How long a backend may wait for what, so that no instance holds up another for longer than its lease."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

logger = logging.getLogger(__name__)

DEFAULT_LEASE = 15.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds that follow from the lease of the instances that share a backend."""

    operation: float
    """One operation, the wait for a connection included: a heartbeat that fails can be repeated within the lease."""
    lock: float
    """The wait for a row that another transaction holds."""
    idle: float
    """How long a transaction may stay open without a statement before the server ends it, with its locks."""

    @classmethod
    def of_lease(cls, lease: float, timeout: float | None = None, where: str = "") -> Limits:
        """The limits for a lease of this many seconds.

        A `timeout` that a user gave for one operation counts, but at most half the lease; a longer one is warned about.
        """
        operation = min(10.0, lease / 3)
        if timeout is not None:
            operation = min(timeout, lease / 2)
            if timeout > operation:
                logger.warning(
                    "%s: timeout=%g is too long for a lease of %g s; an operation is given up after %g s",
                    where, timeout, lease, operation,
                )  # fmt: skip
        return cls(operation, min(1.0, lease / 10, operation / 2), lease / 3)


@runtime_checkable
class LeaseAware(Protocol):
    """A backend whose time limits follow from the lease."""

    def use_lease(self, lease_seconds: float) -> None:
        """Set the limits for instances with this lease; called before `open`."""
