"""What each instance says of itself reaches the others, and costs nothing while nothing changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.engine.deployment import KIND
from taskflow_otel.engine.fleet import board as module
from taskflow_otel.engine.fleet.board import Board
from taskflow_otel.engine.fleet.heartbeat import make_instance
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.queues import QueueStats
from taskflow_otel.model.board import QueueLoad
from taskflow_otel.model.schedule import ScheduleStatus
from taskflow_otel.model.vocabulary import InstanceKind, InstanceState
from taskflow_otel.testing.clock import FakeClock
from tests.engine.membership import Alone
from tests.managers import started
from tests.waiting import eventually


class Writes(MemoryBackend):
    """Counts the settings that are written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    async def put_setting(self, key: str, value: str | None) -> None:
        self.written += 1
        await super().put_setting(key, value)


def stats(**numbers: float) -> dict[str, QueueStats]:
    """The queue `mail` with these numbers."""
    none = {"shared": False, "claimed": True, "running": 0, "ready": 0, "delayed": 0, "oldest_ready_age": 0.0}
    return {"mail": QueueStats(name="mail", concurrency=2, max_size=None, paused=False, **{**none, **numbers})}  # type: ignore[arg-type]  # whole numbers


class One:
    """An instance with its board."""

    def __init__(self, backend: Writes, clock: FakeClock) -> None:
        self.instance = make_instance(clock, 10.0)
        self.queues = stats()
        self.schedules: list[ScheduleStatus] = []
        self.board = Board(
            backend, clock, 1.0, Alone(self.instance), Life(), lambda: self.queues, lambda: self.schedules
        )


def trouble(missed: int) -> ScheduleStatus:
    return ScheduleStatus(
        name="nightly", func_name="report", rule="every 60 s", timezone="UTC", next_run=None, last_run=None,
        last_task_id=None, paused=False, catch_up="skip", overlap="allow", missed=missed, errors=0, last_error=None,
    )  # fmt: skip


async def test_each_living_instance_reads_what_all_of_them_say() -> None:
    backend, clock = Writes(), FakeClock()
    one, other = One(backend, clock), One(backend, clock)
    for each in (one, other):
        await backend.beat(each.instance)
    other.queues = stats(running=2, ready=3, oldest_ready_age=5.0)
    other.schedules = [trouble(4)]
    await other.board.tick()
    await one.board.tick()
    one.queues = stats(running=1)
    said = await one.board.read()
    assert said[one.instance.instance_id].queues["mail"] == QueueLoad(2, None, 1)
    theirs = said[other.instance.instance_id]
    assert (theirs.queues["mail"].running, theirs.queues["mail"].ready) == (2, 3)
    since = theirs.queues["mail"].ready_since
    assert since is not None
    assert 4 <= (clock.now() - since).total_seconds() <= 6
    assert theirs.schedules["nightly"].missed == 4
    await backend.beat(replace(other.instance, state=InstanceState.STOPPED.value))
    assert list(await one.board.read()) == [one.instance.instance_id]


async def test_nothing_is_written_while_nothing_changes_and_a_stop_takes_it_down() -> None:
    backend, clock = Writes(), FakeClock()
    one = One(backend, clock)
    one.queues = stats(ready=1, oldest_ready_age=5.0)
    for second in range(5):
        one.queues = stats(ready=1, oldest_ready_age=5.0 + second)
        await one.board.tick()
        await clock.advance(1)
    assert backend.written == 1
    await one.board.finish()
    assert await backend.settings("") == {}


async def test_what_an_instance_said_that_is_gone_is_deleted_in_the_end() -> None:
    backend, clock = Writes(), FakeClock()
    one, gone = One(backend, clock), One(backend, clock)
    await backend.beat(one.instance)
    await gone.board.tick()
    for _ in range(module._TIDY_ROUNDS):
        await one.board.tick()
    assert [key.partition(":")[2] for key in await backend.settings("")] == [one.instance.instance_id]


async def test_it_says_what_the_process_was_started_as_and_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend(durable=True)
    web = TaskManager(snapshot_backend=backend, release="1.4.2")
    monkeypatch.setenv(KIND, InstanceKind.WORKER.value)
    worker = TaskManager(snapshot_backend=backend)
    async with started(web), started(worker):
        said = await web.engine.board.read()
        assert said[web.engine.instance_id].kind == InstanceKind.WEB
        assert said[web.engine.instance_id].release == "1.4.2"

        async def known() -> bool:
            found = (await web.engine.board.read()).get(worker.engine.instance_id)
            return found is not None and (found.kind, found.release) == (InstanceKind.WORKER, None)

        await eventually(known, "what the worker says")


async def test_a_release_is_marked_once_by_the_first_instance_that_has_it_and_again_after_another() -> None:
    backend, clock = Writes(), FakeClock()

    async def start(release: str) -> Board:
        instance = make_instance(clock, 10.0)
        await backend.beat(instance)
        board = Board(backend, clock, 1.0, Alone(instance), Life(), dict, list, kind=InstanceKind.WEB, release=release)
        await board.tick()
        await clock.advance(60)
        return board

    async def seen() -> list[tuple[str, int]]:
        marks = await one.releases()
        return [(mark.release, round((mark.at - began).total_seconds())) for mark in marks]

    began = clock.now()
    one = await start("1.0")
    assert await seen() == [("1.0", 0)]
    await start("1.0")
    two = await start("1.1")
    await start("1.0")
    assert await seen() == [("1.0", 0), ("1.1", 120)]
    for instance in await backend.instances():
        await backend.beat(replace(instance, state=InstanceState.STOPPED.value))
    await start("1.1")
    await start("1.0")
    await two.tick()
    assert await seen() == [("1.0", 0), ("1.1", 120), ("1.0", 300)]
    await start("")
    assert len(await seen()) == 3
