"""An instance whose lease always holds, for tests of parts that need to know who they are."""

from __future__ import annotations

from dataclasses import replace

from taskflow_otel.engine.fleet.heartbeat import make_instance
from taskflow_otel.model.query import Instance
from taskflow_otel.runtime.clock import Clock, SystemClock


class Alone:
    """A `Membership` without a fleet."""

    lease_holds = True

    def __init__(self, instance: Instance | None = None, clock: Clock | None = None, lease_seconds: float = 15) -> None:
        self.instance = instance or make_instance(clock or SystemClock(), lease_seconds)

    async def ensure_lease(self) -> None:
        """It is certain already."""

    async def declared_dead(self, instance_id: str) -> None:
        """It gets a new id."""
        if instance_id == self.instance.instance_id:
            self.instance = replace(self.instance, instance_id=f"{instance_id}-again")
