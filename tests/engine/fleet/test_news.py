"""A worker hears of tasks that other processes add: here its own rounds are too rare to find them."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.engine.deployment import RUN
from tests.backends.conftest import FACTORIES
from tests.callers import Database
from tests.managers import finish, started
from tests.waiting import eventually

RARELY = 3600.0


async def work() -> None: ...


def member(request: pytest.FixtureRequest, server: str, run: str) -> TaskManager:
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setenv(RUN, run)
        queues = {"shared": QueueConfig(run="pool")}
        manager = TaskManager(snapshot_backend=FACTORIES[server](request)(), queues=queues)
    manager.task(persist=True, queue="shared", name="work")(work)
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


async def test_without_notifications_the_rounds_find_the_tasks_and_it_is_said_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("taskflow_otel.engine.fleet.news._AGAIN", 0.01)
    web, worker = member(request, "pgbouncer", "none"), member(request, "pgbouncer", "pool")
    async with started(web), started(worker):
        await eventually(lambda: "sends no notifications" in caplog.text, "the warning")
        await finish(web, await web.enqueue(work))
    assert caplog.text.count("sends no notifications") == 1
