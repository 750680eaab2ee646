"""What the engine needs to know of its own place among the instances, and why an attempt is stopped for it."""

from __future__ import annotations

from typing import Final, Protocol

from taskflow_otel.model.query import Instance

SHUTDOWN: Final = "shutdown"
"""The reason of a cancellation by drain: not the user's wish, so it is an interruption."""
TAKEN_OVER: Final = "taken_over"
"""The reason of a cancellation because another instance owns the task now."""


class Membership(Protocol):
    """This process as one of the instances that share a backend."""

    @property
    def instance(self) -> Instance:
        """As whom it owns tasks at the moment."""

    @property
    def lease_holds(self) -> bool:
        """Whether nobody can have taken its tasks over."""

    async def ensure_lease(self) -> None:
        """Return once it is certain that this instance is alive to the others; raises `BackendError`."""
