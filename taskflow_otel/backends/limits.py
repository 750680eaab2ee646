"""The time limits of a backend, so that no instance delays another for longer than its lease."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

logger = logging.getLogger(__name__)

DEFAULT_LEASE = 15.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, derived from the lease of the instances that share a backend."""

    operation: float
    """One operation, including the wait for a connection: a failed heartbeat can be repeated within the lease."""
    lock: float
    """The wait for a row that another transaction has locked; also the wait until a cancelled operation has ended."""
    idle: float
    """How long a transaction may be idle before the server ends it and releases its locks."""

    @classmethod
    def of_lease(cls, lease: float, timeout: float | None = None, where: str = "") -> Limits:
        """The limits for a lease in seconds.

        A user's `timeout` for one operation is used, but at most half the lease; a longer one logs a warning.
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
    """A backend whose time limits depend on the lease."""

    def use_lease(self, lease_seconds: float) -> None:
        """Set the limits for this lease; called before `open`."""
