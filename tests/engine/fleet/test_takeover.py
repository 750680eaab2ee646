"""Who is declared dead, and who only seems to be: the takeover and the heartbeat, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.engine.fleet import takeover
from taskflow_otel.engine.losses import PREFIX, load_loss
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.testing.backends.samples import ids, make_instance, make_task
from tests.engine.fleet.conftest import INTERVAL, LEASE, Scene


async def test_a_silent_instance_is_taken_over_after_its_lease_and_not_before(scene: Scene) -> None:
    await scene.look(LEASE - INTERVAL)
    assert scene.recovered == []
    await scene.look(2 * INTERVAL)
    assert len(scene.recovered) == 1


async def test_a_dead_instance_is_known_for_a_day_with_what_it_was_doing(scene: Scene) -> None:
    running = make_task(instance="other")
    running.status = TaskStatus.RUNNING
    running.timeline = (TimelineEntry(Transition.STARTED, running.created_at, 0, "other"),)
    waiting = make_task(instance="other", timeline=running.timeline)
    await scene.backend.apply([Insert(running), Insert(waiting)])
    await scene.look(LEASE + INTERVAL)
    await scene.clock.advance(timedelta(hours=23).total_seconds())
    await scene.takeover.tick()
    assert [known.instance_id for known in await scene.backend.instances()] == ["other"]
    [loss] = [load_loss(text) for text in (await scene.backend.settings(PREFIX)).values()]
    assert (loss.interrupted, loss.interrupted_number, loss.moved) == ([running.task_id], 1, 1)
    await scene.clock.advance(timedelta(hours=2).total_seconds())
    await scene.takeover.tick()
    assert await scene.backend.instances() == []
    assert await scene.backend.settings(PREFIX) == {}


async def test_an_instance_that_dies_again_and_again_does_not_fill_the_ledger(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "_REMEMBERED", 3)
    monkeypatch.setattr(takeover, "process_gone", lambda instance, host: True)
    for number in range(10):
        beat = scene.clock.now() + timedelta(seconds=number)
        await scene.backend.beat(make_instance(f"dead-{number}", heartbeat_at=beat))
    for _ in range(2):
        await scene.takeover.tick()
    known = sorted(instance.instance_id for instance in await scene.backend.instances())
    assert known == ["dead-7", "dead-8", "dead-9"]


async def test_after_an_absence_of_the_backend_everyone_has_a_whole_lease_to_come_back(scene: Scene) -> None:
    await scene.clock.advance(10 * LEASE)
    await scene.look(LEASE - INTERVAL)
    assert scene.recovered == []
    await scene.beat()
    await scene.look(LEASE - INTERVAL)
    assert scene.recovered == []


async def test_a_takeover_without_an_answer_is_asked_for_again_even_when_nobody_is_gone_any_more() -> None:
    class LosesTheFirstAnswer(MemoryBackend):
        lost: list[TaskRecord]

        async def take_over(
            self,
            dead: Collection[str],
            new_owner: str,
            names: Collection[str] | None,
            limit: int,
            seals: Collection[str] = (),
        ) -> list[TaskRecord]:
            if not hasattr(self, "lost"):
                self.lost = await super().take_over(dead, new_owner, names, limit, seals)
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
            self,
            dead: Collection[str],
            new_owner: str,
            names: Collection[str] | None,
            limit: int,
            seals: Collection[str] = (),
        ) -> list[TaskRecord]:
            return [] if self.locked else await super().take_over(dead, new_owner, names, limit, seals)

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
