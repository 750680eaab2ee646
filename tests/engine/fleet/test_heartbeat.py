"""The heartbeat: an instance that beats in time keeps its tasks; a dead one continues under a new id."""

from __future__ import annotations

import asyncio
from datetime import datetime

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.engine.fleet.heartbeat import Heartbeat
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import Instance
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.testing.clock import FakeClock
from tests.engine.fleet.conftest import INTERVAL, LEASE, Scene


async def test_an_instance_that_was_taken_over_learns_it_when_it_wakes_up(scene: Scene) -> None:
    await scene.look(2 * LEASE)
    assert len(scene.recovered) == 1
    assert await scene.beat() is False


async def test_an_instance_that_beats_at_the_last_moment_keeps_its_tasks() -> None:
    class LastMoment(MemoryBackend):
        async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
            await scene.beat()
            return await super().declare_dead(instance_id, seen_heartbeat)

    scene = Scene(LastMoment(durable=True))
    await scene.beat()
    await scene.backend.apply([Insert(make_task(instance="other"))])
    await scene.look(LEASE + 2 * INTERVAL)
    assert scene.recovered == []
    assert [instance.state for instance in await scene.backend.instances()] == ["alive"]


async def test_a_heartbeat_does_not_back_off() -> None:
    class Away(MemoryBackend):
        beats = 0

        async def beat(self, instance: Instance) -> bool:
            self.beats += 1
            raise BackendUnavailableError("away")

    async def never(*_: object) -> None:
        raise AssertionError("nobody said so")

    backend, clock = Away(durable=True), FakeClock()
    heartbeat = Heartbeat(backend, clock, INTERVAL, LEASE)
    heartbeat.connect(rejoin=never, introduce=never)
    await heartbeat.start()
    await clock.advance(60 * INTERVAL)
    await heartbeat.stop()
    assert (backend.beats, heartbeat.failures) == (60, 60)


async def test_a_heartbeat_that_gets_no_answer_leaves_time_for_another_within_the_lease() -> None:
    class SilentOnce(MemoryBackend):
        calls = 0

        async def beat(self, instance: Instance) -> bool:
            self.calls += 1
            if self.calls == 2:
                await asyncio.Event().wait()
            return await super().beat(instance)

    async def nothing(*_: object) -> None:
        """Nobody has taken anything over."""

    backend, clock = SilentOnce(durable=True), FakeClock()
    await backend.open()
    heartbeat = Heartbeat(backend, clock, INTERVAL, LEASE)
    heartbeat.connect(rejoin=nothing, introduce=nothing)
    await heartbeat.join()
    await heartbeat.start()
    for _ in range(int(3 * LEASE)):
        await clock.advance(INTERVAL)
        assert heartbeat.lease_holds
    await heartbeat.stop()
    assert heartbeat.failures == 1
