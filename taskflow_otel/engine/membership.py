"""What the engine needs to know of this process as an instance, and the reasons for which it stops attempts."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from taskflow_otel.model.query import Instance
from taskflow_otel.model.vocabulary import Reason


class Ownership(Enum):
    """Why an attempt is stopped without an outcome."""

    LOST = auto()
    """Another instance owns the task now."""


StopCause = Reason | Ownership
"""Why a task is stopped: the reason of its outcome, or `Ownership.LOST`."""
LEAVING = frozenset({Reason.SHUTDOWN, Ownership.LOST})
"""Causes that no user asked for: the attempt is interrupted, and the task may run elsewhere."""


class Membership(Protocol):
    """This process as one of the instances that share a backend."""

    @property
    def instance(self) -> Instance:
        """The instance under whose id it owns tasks now."""

    @property
    def lease_holds(self) -> bool:
        """Whether no other instance can have taken its tasks over."""

    async def ensure_lease(self) -> None:
        """Return once this instance is certainly not declared dead; raises `BackendError`."""

    async def declared_dead(self, instance_id: str) -> None:
        """The backend says that this id was declared dead: join under a new one, unless that has happened already.

        Raises `BackendError`.
        """
