"""Several instances on one backend, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.engine.fleet.heartbeat import make_instance
from taskflow_otel.engine.fleet.takeover import Takeover
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.testing.clock import FakeClock
from tests.engine.membership import Alone

LEASE = 10.0


INTERVAL = 1.0


class Scene:
    """One instance with its takeover, and another on a host that cannot be looked into."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.backend = backend
        self.clock = FakeClock()
        self.own = make_instance(self.clock, LEASE)
        self.other = replace(self.own, instance_id="other", host="elsewhere")
        self.recovered: list[TaskRecord] = []
        self.takeover = Takeover(backend, self.clock, INTERVAL, Alone(self.own), lambda: ["send"], self.recover)

    async def recover(self, taken: Sequence[tuple[TaskRecord, datetime]]) -> None:
        self.recovered += [record for record, _ in taken]

    async def beat(self) -> bool:
        """The other instance gives a sign of life."""
        self.other = replace(self.other, heartbeat_at=self.clock.now())
        return await self.backend.beat(self.other)

    async def look(self, seconds: float) -> None:
        """Let the takeover look once each interval for so long."""
        for _ in range(int(seconds / INTERVAL)):
            await self.clock.advance(INTERVAL)
            await self.takeover.tick()


@pytest.fixture
async def scene() -> Scene:
    """The other instance has a task, and has been seen alive."""
    scene = Scene(MemoryBackend(durable=True))
    await scene.backend.open()
    await scene.beat()
    await scene.backend.apply([Insert(make_task(instance="other"))])
    await scene.takeover.tick()
    return scene
