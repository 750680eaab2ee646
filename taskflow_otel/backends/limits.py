"""How long a backend may wait for what, so that no instance holds up another for longer than its lease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
    def of_lease(cls, lease: float) -> Limits:
        """The limits for a lease of so many seconds."""
        return cls(operation=min(10.0, lease / 3), lock=min(1.0, lease / 10), idle=lease / 3)


@runtime_checkable
class LeaseAware(Protocol):
    """A backend whose time limits follow from the lease."""

    def use_lease(self, lease_seconds: float) -> None:
        """Set the limits for instances with this lease; called before `open`."""
