"""Two applications in one database: with namespaces of their own, they share nothing but the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.testing.clock import FakeClock
from tests.ledger.fleet import LONG_AGO, Fleet
from tests.managers import finish
from tests.waiting import eventually

KINDS = ["sqlite", "postgres", "mysql", "redis"]
TICK = TaskQuery(func_name="tick")


class Application:
    """One of the applications: task, schedule and key have the same names in all of them; `ran` is what it has run."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ran: list[str] = []

    def member(self, clock: Clock) -> TaskManager:
        """A process of this application, not started."""
        manager = self.fleet.manager(clock=clock)

        async def tick() -> None:
            self.ran.append("tick")

        manager.task(persist=True, name="job")(self.job)
        manager.schedule(every=10, name="tick", persist=True)(tick)
        return manager

    async def job(self) -> None:
        """The function of the task."""
        self.ran.append("job")

    async def fired(self, since: datetime) -> dict[datetime, str]:
        """The firings after a moment that have run: their times and ids."""
        records = [record for record in await self.fleet.records(TICK) if record.status is TaskStatus.SUCCESS]
        return {record.run_at: record.task_id for record in records if record.run_at and record.run_at > since}

    async def page(self) -> set[str]:
        """The ids of all tasks that the list shows, without those of the schedule."""
        return {record.task_id for record in await self.fleet.records(TaskQuery(func_name="job"))}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The backend."""
    kind: str = request.param
    return kind


@pytest.fixture(params=[("shop", "mail"), (None, "mail")], ids=["two namespaces", "one and the default"])
async def applications(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> AsyncIterator[tuple[Application, Application]]:
    """Two applications in one database."""
    fixture = {"postgres": "postgres_url", "mysql": "mariadb_url", "redis": "redis_url"}.get(kind)
    url: str = "" if fixture is None else request.getfixturevalue(fixture)

    def backend(namespace: str | None) -> Backend:
        match kind:
            case "sqlite":
                return SqliteBackend(tmp_path / "tasks.db", namespace=namespace)
            case "postgres":
                return PostgresBackend(url, namespace=namespace)
            case "mysql":
                return MySQLBackend(url, namespace=namespace)
            case _:
                return RedisBackend(url, namespace=namespace)

    first, second = request.param
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Fleet(lambda: backend(first)))
        other = await stack.enter_async_context(Fleet(lambda: backend(second)))
        yield Application(one), Application(other)


async def test_the_same_names_and_keys_in_two_namespaces_never_meet_not_even_after_a_death(
    applications: tuple[Application, Application],
) -> None:
    shop, mail = applications
    clock = FakeClock()
    # Its clock stands in the past, so its task waits here and is due for every other process.
    doomed, stranger = shop.member(FakeClock(LONG_AGO)), mail.member(clock)
    await shop.fleet.start(doomed)
    await mail.fleet.start(stranger)
    waiting = await doomed.enqueue(shop.job, delay=60, idempotency_key="key")
    own = await stranger.enqueue(mail.job, idempotency_key="key")
    assert (await finish(stranger, own)).status is TaskStatus.SUCCESS
    for application, manager, task_id, foreign in ((shop, doomed, waiting, own), (mail, stranger, own, waiting)):
        assert await application.fleet.storage.holder_of("key") == task_id
        assert await application.page() == {task_id}
        assert await application.fleet.storage.get(foreign) is None
        assert [one.instance_id for one in await application.fleet.storage.instances()] == [manager.engine.instance_id]

    await shop.fleet.die(doomed)
    calls = mail.fleet.wires[stranger].calls
    calls.clear()

    async def looked() -> bool:
        await clock.advance(0.5)
        return [name for name, _ in calls].count("instances") > 2

    await eventually(looked, "looks for dead instances")
    orphan = await shop.fleet.storage.get(waiting)
    assert orphan is not None
    assert (orphan.status, orphan.instance) == (TaskStatus.PENDING, doomed.engine.instance_id)
    assert "job" not in shop.ran

    heir = shop.member(clock)
    await shop.fleet.start(heir)

    async def taken_over() -> bool:
        await clock.advance(0.5)
        record = await shop.fleet.storage.get(waiting)
        return record is not None and record.status is TaskStatus.SUCCESS

    await eventually(taken_over, "the takeover by the same application")
    assert (shop.ran.count("job"), mail.ran.count("job")) == (1, 1)

    # A firing is made once in a storage: here each application makes its own, for the same times.
    began = clock.now()

    async def both_fired_twice() -> bool:
        await clock.advance(1.0)
        ours, theirs = await shop.fired(began), await mail.fired(began)
        assert not {*ours.values()} & {*theirs.values()}
        return len(ours.keys() & theirs.keys()) >= 2

    await eventually(both_fired_twice, "two firings of both applications for the same times")

    await stranger.pause_schedule("tick")
    paused = clock.now()

    async def still_fires() -> bool:
        await clock.advance(1.0)
        return len(await shop.fired(paused)) >= 2

    await eventually(still_fires, "firings of the application whose schedule is not paused")
    assert await mail.fired(paused) == {}
