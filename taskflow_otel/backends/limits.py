"""The time limits of a backend, so that no instance delays another for longer than its lease."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

logger: logging.Logger = logging.getLogger(__name__)

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
    too_long: str = ""
    """What is wrong with the timeout that the user gave, if it is not the one in force."""

    @classmethod
    def of_lease(cls, lease: float, timeout: float | None = None) -> Limits:
        """The limits for a lease in seconds; a user's `timeout` is used, but at most half the lease."""
        operation, too_long = min(10.0, lease / 3), ""
        if timeout is not None:
            operation = min(timeout, lease / 2)
            if timeout > operation:
                too_long = (
                    f"timeout={timeout:g} is too long for a lease of {lease:g} s; "
                    f"an operation is given up after {operation:g} s"
                )
        return cls(operation, min(1.0, lease / 10, operation / 2), lease / 3, too_long)

    def report(self, where: str) -> None:
        """Log a warning if the user's timeout is too long; called by `open`, when the lease in force is known."""
        if self.too_long:
            logger.warning("%s: %s", where, self.too_long)


@runtime_checkable
class LeaseAware(Protocol):
    """A backend whose time limits depend on the lease."""

    def use_lease(self, lease_seconds: float) -> None:
        """Set the limits for this lease; called before `open`."""
