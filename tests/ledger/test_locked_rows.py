"""Another program locks the row of one task or instance: what depends on it waits alone, and nothing of it is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskflow_otel import TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import MySQLBackend, PostgresBackend
from taskflow_otel.testing.clock import FakeClock
from tests.asgi import running
from tests.ledger.fleet import LONG_AGO, Fleet
from tests.managers import Gate, finish
from tests.waiting import eventually

KINDS = {
    "postgres": ("postgres_url", PostgresBackend, "postgresql+psycopg"),
    "mysql": ("mariadb_url", MySQLBackend, "mysql+aiomysql"),
}
LOCK = text("SELECT 1 FROM taskflow_tasks WHERE task_id = :task_id FOR UPDATE")
LOCK_INSTANCE = text("SELECT 1 FROM taskflow_instances WHERE instance_id = :instance_id FOR UPDATE")
NO_PROCESS = 2**30
"""A process id beyond the largest that Linux gives."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["running", "pending"])
async def test_a_locked_row_delays_its_task_alone_and_its_outcome_is_kept(
    request: pytest.FixtureRequest, kind: str, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    fixture, make_backend, driver = KINDS[kind]
    url: str = request.getfixturevalue(fixture)
    app, gates = FastAPI(), {"locked": Gate(), "other": Gate()}
    manager = TaskManager(snapshot_backend=make_backend(url), commit_timeout=3.0, lease_seconds=6.0)
    TaskAdmin(app, manager)

    async def work(name: str) -> None:
        await gates[name].run()

    async def quick() -> None: ...

    work, quick = manager.task(persist=True)(work), manager.task(persist=True)(quick)
    foreign = create_async_engine(make_url(url).set(drivername=driver))
    async with running(app), foreign.connect() as holder:
        locked = await manager.enqueue(work, "locked", delay=1.0 if state == "pending" else None)
        other = await manager.enqueue(work, "other")
        await gates["other"].entered.wait()
        if state == "running":
            await gates["locked"].entered.wait()
        await holder.execute(LOCK, {"task_id": locked})
        for gate in gates.values():
            gate.opened.set()
        assert (await finish(manager, other)).status is TaskStatus.SUCCESS
        await eventually(lambda: f"the changes of task {locked} wait to be stored" in caplog.text, "the wait")
        # Everything else is committed in time, including retries of the locked one.
        for _ in range(20):
            assert (await finish(manager, await manager.enqueue(quick))).status is TaskStatus.SUCCESS
        assert (await manager.get(locked)).status.value == state
        assert not manager.engine.vitals.backend_failing
        await holder.rollback()
        assert (await finish(manager, locked)).status is TaskStatus.SUCCESS
        stored = await manager.engine.lookup.get(locked)
        assert (stored.status, stored.attempt) == (TaskStatus.SUCCESS, 0)
    await foreign.dispose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_shutdown_does_not_wait_for_a_locked_row_and_the_next_start_takes_its_task_over(
    request: pytest.FixtureRequest, kind: str
) -> None:
    fixture, make_backend, driver = KINDS[kind]
    url: str = request.getfixturevalue(fixture)
    entered: list[int] = []

    async def work() -> None:
        entered.append(1)
        if len(entered) == 1:
            await asyncio.sleep(3600)

    def make() -> TaskManager:
        manager = TaskManager(
            snapshot_backend=make_backend(url), lease_seconds=6.0, shutdown_timeout=0.5, cancel_grace=3.0
        )
        manager.task(persist=True, requeue_on_interrupt=True)(work)
        return manager

    first, second = make(), make()
    foreign = create_async_engine(make_url(url).set(drivername=driver))
    await first.startup()
    task_id = await first.enqueue(work)
    await eventually(lambda: entered == [1], "the first attempt")
    async with foreign.connect() as holder:
        await holder.execute(LOCK, {"task_id": task_id})
        async with asyncio.timeout(30):
            await first.shutdown()
        await holder.rollback()
    await foreign.dispose()
    await second.startup()
    assert (await finish(second, task_id)).status is TaskStatus.SUCCESS
    await second.shutdown()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("locked", ["task", "instance"])
async def test_a_locked_row_of_the_dead_delays_no_other_takeover(
    request: pytest.FixtureRequest, kind: str, locked: str, caplog: pytest.LogCaptureFixture
) -> None:
    fixture, make_backend, driver = KINDS[kind]
    url: str = request.getfixturevalue(fixture)
    ran: list[str] = []

    async def work(name: str) -> None:
        ran.append(name)

    foreign = create_async_engine(make_url(url).set(drivername=driver), poolclass=NullPool)
    async with Fleet(lambda: make_backend(url)) as fleet, foreign.connect() as holder:
        # On their own clocks, their tasks are never due.
        first, second = (fleet.manager(clock=FakeClock(LONG_AGO)) for _ in range(2))
        survivor = fleet.manager()
        for manager in (first, second, survivor):
            manager.task(persist=True)(work)
        await fleet.start(first, second)
        ids = {name: await first.enqueue(work, name, delay=60) for name in ("one", "two", "three")}
        ids["four"] = await second.enqueue(work, "four", delay=60)
        await fleet.die(first)
        # The second one has died too, and nobody has declared it dead yet: the survivor sees that its process is gone.
        fleet.wires[second].cut = True
        [known] = [i for i in await fleet.storage.instances() if i.instance_id == second.engine.instance_id]
        assert await fleet.storage.beat(replace(known, pid=NO_PROCESS))

        if locked == "task":
            late = "two"
            await holder.execute(LOCK, {"task_id": ids[late]})
        else:
            late = "four"
            await holder.execute(LOCK_INSTANCE, {"instance_id": second.engine.instance_id})
        await fleet.start(survivor)
        for name in ids.keys() - {late}:
            assert (await finish(survivor, ids[name])).status is TaskStatus.SUCCESS, name
        calls = fleet.wires[survivor].calls
        looks = [name for name, _ in calls].count("instances")
        await eventually(lambda: [name for name, _ in calls].count("instances") >= looks + 3, "two more whole looks")
        assert (await finish(survivor, await survivor.enqueue(work, "new"))).status is TaskStatus.SUCCESS
        assert not survivor.engine.vitals.backend_failing
        assert late not in ran
        assert (await survivor.get(ids[late])).status is TaskStatus.PENDING
        assert "stored tasks are named" not in caplog.text
        assert locked == "instance" or "waited too long" not in caplog.text

        await holder.rollback()
        assert (await finish(survivor, ids[late])).status is TaskStatus.SUCCESS
        assert sorted(ran) == sorted([*ids, "new"])
        assert "stored tasks are named" not in caplog.text
