"""Who is declared dead, and who only seems to be: the rescuer and the heartbeat, with a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.engine.fleet.heartbeat import Heartbeat, make_instance
from taskflow_otel.engine.fleet.takeover import Takeover
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.testing.backends.samples import ids, make_task
from taskflow_otel.testing.clock import FakeClock
from tests.engine.membership import Alone

LEASE = 10.0
INTERVAL = 1.0


class Scene:
    """One instance with its rescuer, and another on a host that cannot be looked into."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.backend = backend
        self.clock = FakeClock()
        self.own = make_instance(self.clock, LEASE)
        self.other = replace(self.own, instance_id="other", host="elsewhere")
        self.recovered: list[TaskRecord] = []
        self.rescuer = Takeover(backend, self.clock, INTERVAL, Alone(self.own), lambda: ["send"], self.recover)

    async def recover(self, taken: Sequence[tuple[TaskRecord, datetime]]) -> None:
        self.recovered += [record for record, _ in taken]

    async def beat(self) -> bool:
        """The other instance gives a sign of life."""
        self.other = replace(self.other, heartbeat_at=self.clock.now())
        return await self.backend.beat(self.other)

    async def look(self, seconds: float) -> None:
        """Let the rescuer look once each interval for so long."""
        for _ in range(int(seconds / INTERVAL)):
            await self.clock.advance(INTERVAL)
            await self.rescuer.tick()


@pytest.fixture
async def scene() -> Scene:
    """The other instance has a task, and has been seen alive."""
    scene = Scene(MemoryBackend(durable=True))
    await scene.backend.open()
    await scene.beat()
    await scene.backend.apply([Insert(make_task(instance="other"))])
    await scene.rescuer.tick()
    return scene


async def test_a_silent_instance_is_taken_over_after_its_lease_and_not_before(scene: Scene) -> None:
    await scene.look(LEASE - INTERVAL)
    assert scene.recovered == []
    await scene.look(2 * INTERVAL)
    assert len(scene.recovered) == 1


async def test_an_instance_that_was_taken_over_learns_it_when_it_wakes_up(scene: Scene) -> None:
    await scene.look(2 * LEASE)
    assert len(scene.recovered) == 1
    assert await scene.beat() is False


async def test_an_instance_that_was_declared_dead_is_forgotten_in_the_end(scene: Scene) -> None:
    await scene.look(LEASE + INTERVAL)
    await scene.clock.advance(timedelta(hours=2).total_seconds())
    await scene.rescuer.tick()
    assert await scene.backend.instances() == []


async def test_after_an_absence_of_the_backend_everyone_has_a_whole_lease_to_come_back(scene: Scene) -> None:
    await scene.clock.advance(10 * LEASE)
    await scene.look(LEASE - INTERVAL)
    assert scene.recovered == []
    await scene.beat()
    await scene.look(LEASE - INTERVAL)
    assert scene.recovered == []


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


async def test_a_takeover_without_an_answer_is_asked_for_again_even_when_nobody_is_gone_any_more() -> None:
    class LosesTheFirstAnswer(MemoryBackend):
        lost: list[TaskRecord]

        async def take_over(
            self, dead: Collection[str], new_owner: str, names: Collection[str] | None, limit: int
        ) -> list[TaskRecord]:
            if not hasattr(self, "lost"):
                self.lost = await super().take_over(dead, new_owner, names, limit)
                # Another instance finds that the dead one owns nothing any more.
                await self.forget_instances(dead)
                raise BackendUnavailableError("the connection broke")
            return self.lost

    backend = LosesTheFirstAnswer(durable=True)
    scene = Scene(backend)
    await scene.beat()
    await backend.apply([Insert(make_task(instance="other"))])
    with pytest.raises(BackendUnavailableError):
        await scene.look(LEASE + 2 * INTERVAL)
    await scene.look(INTERVAL)
    assert ids(scene.recovered) == ids(backend.lost) != []


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


async def test_a_dead_instance_whose_row_is_locked_keeps_the_tasks_of_no_other_waiting() -> None:
    class Locked(MemoryBackend):
        locked = True

        async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
            if instance_id == "a-locked-one" and self.locked:
                raise BackendUnavailableError("the row is locked")
            return await super().declare_dead(instance_id, seen_heartbeat)

    backend = Locked(durable=True)
    scene = Scene(backend)
    await scene.beat()
    await backend.beat(replace(scene.other, instance_id="a-locked-one"))
    await backend.apply([Insert(make_task(instance="other")), Insert(make_task(instance="a-locked-one"))])
    await scene.look(LEASE)
    with pytest.raises(BackendUnavailableError, match="locked"):
        await scene.look(INTERVAL)
    assert len(scene.recovered) == 1
    backend.locked = False
    await scene.look(INTERVAL)
    assert len(scene.recovered) == 2


async def test_of_locked_rows_it_is_not_said_that_their_name_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    class Locked(MemoryBackend):
        locked = True

        async def take_over(
            self, dead: Collection[str], new_owner: str, names: Collection[str] | None, limit: int
        ) -> list[TaskRecord]:
            return [] if self.locked else await super().take_over(dead, new_owner, names, limit)

    backend = Locked(durable=True)
    scene = Scene(backend)
    await scene.beat()
    await backend.apply(
        [Insert(make_task(instance="other")), Insert(make_task(instance="other", func_name="of another release"))]
    )
    await scene.look(LEASE + 2 * INTERVAL)
    assert [record.getMessage()[:40] for record in caplog.records if record.levelname == "ERROR"] == [
        "1 stored tasks are named 'of another rel"
    ]
    backend.locked = False
    await scene.look(INTERVAL)
    assert len(scene.recovered) == 1
