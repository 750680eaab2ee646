"""The end of a task waits for a locked row while its instance is declared dead: one instance publishes one end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskflow_otel import InMemoryLogger
from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend
from taskflow_otel.model.query import TaskQuery
from tests.ledger.fleet import Fleet
from tests.ledger.test_locked_rows import LOCK
from tests.ledger.test_lost_answers import Scene, lines
from tests.ledger.test_second_identity import is_folded
from tests.managers import WAIT, Gate, finish
from tests.waiting import eventually

ALL: dict[str, tuple[str, Callable[[str], Backend], str]] = {
    "postgres": ("postgres_url", PostgresBackend, "postgresql+psycopg"),
    "pgbouncer": ("pgbouncer_url", PostgresBackend, "postgresql+psycopg"),
    "mysql": ("mariadb_url", MySQLBackend, "mysql+aiomysql"),
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("first_back", [True, False], ids=["back while locked", "back after the takeover"])
async def test_one_end_is_published_and_counted_although_the_takeover_has_passed_over_a_locked_row(
    request: pytest.FixtureRequest, kind: str, first_back: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fixture, make_backend, driver = ALL[kind]
    url: str = request.getfixturevalue(fixture)
    told, gate = InMemoryLogger(), Gate()
    foreign = create_async_engine(make_url(url).set(drivername=driver), poolclass=NullPool)
    async with Fleet(lambda: make_backend(url)) as fleet, foreign.connect() as holder:
        one, other = (fleet.manager(loggers=[told], lease_seconds=3.0) for _ in range(2))
        jobs = [manager.task(name="held", persist=True)(gate.run) for manager in (one, other)]
        await fleet.start(one)
        task_id = await one.enqueue(jobs[0])
        await asyncio.wait_for(gate.entered.wait(), WAIT)
        await holder.execute(LOCK, {"task_id": task_id})
        gate.opened.set()
        await eventually(lambda: f"the changes of task {task_id} wait to be stored" in caplog.text, "the wait")
        former = one.engine.instance_id
        await fleet.die(one)
        await fleet.start(other)

        async def is_passed_over() -> bool:
            calls = [name for name, _ in fleet.wires[other].calls]
            return calls.count("take_over") >= 2 and await is_folded(fleet)

        await eventually(is_passed_over, "two takeovers and the sum of the dead")
        if first_back:
            fleet.wires[one].cut = False
            await eventually(lambda: one.engine.instance_id != former, "the new id")
        await holder.rollback()
        await finish(other, task_id)
        fleet.wires[one].cut = False
        await eventually(lambda: len(one.store.list()) == 0, "the end of the first attempt")
        [record] = await fleet.records(TaskQuery(func_name="held"))
        scene = Scene(fleet, commit_timeout=WAIT)

        def published() -> Counter[tuple[str, int, str]]:
            return Counter((event.transition, event.attempt, event.instance) for event in told.lifecycle_events)

        await eventually(lambda: published() == lines(record), "all lines of the timeline, each published once")
        await scene.agree(one)
        await scene.agree(other)
    await foreign.dispose()
