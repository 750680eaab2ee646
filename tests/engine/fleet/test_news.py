"""A worker hears of tasks that other processes add: here its own rounds are too rare to find them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from taskflow_otel import QueueConfig, TaskManager, TaskStatus
from taskflow_otel.engine.deployment import RUN
from tests.backends.conftest import FACTORIES
from tests.callers import Database
from tests.managers import WAIT, Gate, finish, started
from tests.waiting import eventually

RARELY = 3600.0


async def work() -> None: ...


def member(request: pytest.FixtureRequest, server: str, run: str, func: Callable[..., Any] = work) -> TaskManager:
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setenv(RUN, run)
        queues = {"shared": QueueConfig(run="pool")}
        manager = TaskManager(snapshot_backend=FACTORIES[server](request)(), queues=queues)
    manager.task(persist=True, queue="shared", name="work")(func)
    return manager


@pytest.fixture(params=["postgres", "redis"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("taskflow_otel.engine.fleet.pool.POLL", RARELY)
    monkeypatch.setattr("taskflow_otel.engine.fleet.news._AGAIN", 0.05)
    return str(request.param)


async def test_a_task_of_another_process_is_claimed_at_once_also_after_the_bell_was_broken(
    request: pytest.FixtureRequest, server: str
) -> None:
    web, worker = member(request, server, "none"), member(request, server, "pool")
    async with started(web), started(worker):
        await finish(web, await web.enqueue(work))
        if server == "postgres":
            database = Database(request.getfixturevalue("postgres_url"))
            broken = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"

            async def breaks() -> bool:
                async with database.async_engine.connect() as connection:
                    return bool((await connection.execute(text(broken))).all())

            await eventually(breaks, "the bell")
            await finish(web, await web.enqueue(work))
            async with database.open("AsyncSession") as caller:
                task_id = await web.enqueue(work, session=caller.handle)
                await caller.commit()
            await finish(web, task_id)
            await database.close()


async def test_a_cancellation_by_another_process_arrives_at_once_also_one_that_a_transaction_has_asked_for(
    request: pytest.FixtureRequest, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: object) -> None: ...

    monkeypatch.setattr("taskflow_otel.engine.fleet.remote_cancels.RemoteCancels.tick", never)
    gates = [Gate(), Gate()]
    web, worker = member(request, server, "none", gates[0].run), member(request, server, "pool", gates[0].run)
    for manager in (web, worker):
        manager.task(persist=True, queue="shared", name="other")(gates[1].run)
    async with started(web), started(worker):
        first, second = await web.enqueue(gates[0].run), await web.enqueue(gates[1].run)
        for gate in gates:
            await asyncio.wait_for(gate.entered.wait(), WAIT)
        await web.cancel(first)
        assert (await finish(web, first)).status is TaskStatus.CANCELLED
        if server == "postgres":
            database = Database(request.getfixturevalue("postgres_url"))
            async with database.open("AsyncSession") as caller:
                await web.cancel(second, session=caller.handle)
                await caller.commit()
            await database.close()
        else:
            await web.cancel(second)
        assert (await finish(web, second)).status is TaskStatus.CANCELLED
    assert all(gate.cancelled for gate in gates)


async def test_without_notifications_the_rounds_find_the_tasks_and_it_is_said_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("taskflow_otel.engine.fleet.news._AGAIN", 0.01)
    web, worker = member(request, "pgbouncer", "none"), member(request, "pgbouncer", "pool")
    async with started(web), started(worker):
        await eventually(lambda: "sends no notifications" in caplog.text, "the warning")
        await finish(web, await web.enqueue(work))
    assert caplog.text.count("sends no notifications") == 1
