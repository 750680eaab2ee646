"""A setting or an instance that cannot be read is reported and left out; everything else continues."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from taskflow_otel import TaskStatus
from taskflow_otel.backends import Backend
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.testing.backends.samples import BASE
from tests.backends.conftest import FACTORIES, BackendFactory
from tests.faults.test_damaged_rows import client_of
from tests.ledger.fleet import Fleet
from tests.managers import finish

KINDS = sorted(set(FACTORIES) - {"memory", "pgbouncer"})
DAMAGED = ["{", "null", "[1]", '{"paused":1}', '{"rule":[],"since":1e99}', "\ufffd"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", DAMAGED)
async def test_a_damaged_setting_stops_neither_schedules_nor_queues_nor_metrics(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, kind: str, value: str
) -> None:
    async with Fleet(FACTORIES[kind](request)) as fleet:
        damaged = [
            "schedule-paused:often", "schedule-rule:often", "run-at:k:1", "run-at:without a number",
            "queue:paused:default", "queue:concurrency:default", "metrics:gone", "metrics:other", "metrics-of:other",
        ]  # fmt: skip
        for key in damaged:
            await fleet.storage.put_setting(key, value)
        manager = fleet.manager()
        runs: list[str] = []

        @manager.schedule(every=0.05, name="often")
        async def often() -> None:
            runs.append("often")

        @manager.task(persist=True)
        async def job() -> None: ...

        with caplog.at_level(logging.ERROR):
            async with client_of(manager) as client:
                await manager.schedule_once(job, run_at=BASE, run_key="sound")
                sound = await manager.enqueue(job)
                assert (await finish(manager, sound)).status is TaskStatus.SUCCESS
                for path in ("", "/schedules", "/queues", "/metrics", "/instances", "/health"):
                    assert (await client.get(f"/tasks{path}")).status_code == 200
                assert [run.run_key for run in await manager.list_scheduled()] in (["sound"], [])
        assert "run-at:without a number cannot be read and is left out" in caplog.text


async def damage_instance(backend: Backend, name: str, value: Any, *, url: str | None) -> None:
    """Write a value into every stored instance."""
    if isinstance(backend, SqlBackend):
        assert backend._write_engine is not None
        async with backend._write_engine.begin() as connection:
            await connection.execute(text(f"UPDATE taskflow_instances SET {name} = :value"), {"value": value})
        return
    assert url is not None
    async with Redis.from_url(url, decode_responses=True) as client:
        async for key in client.scan_iter("{taskflow}:instance:*"):
            await client.hset(key, name, value)


ANY_SQL = [("started_at", 2**62), ("lease_seconds", -1)]
ONLY_SQLITE = [("heartbeat_at", "now"), ("pid", "many"), ("host", b"\xff"), ("lease_seconds", 9e999)]
REDIS = [("doc", "{"), ("doc", "[1]"), ("heartbeat", "now")]
INSTANCES = [
    *((kind, *case) for kind in ("sqlite", "postgres", "mysql") for case in ANY_SQL),
    *(("sqlite", *case) for case in ONLY_SQLITE),
    *(("redis", *case) for case in REDIS),
]


@pytest.mark.parametrize(("kind", "name", "value"), INSTANCES, ids=str)
async def test_a_damaged_instance_is_left_out_and_the_others_live_on(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, kind: str, name: str, value: Any
) -> None:
    factory: BackendFactory = FACTORIES[kind](request)
    url: str | None = request.getfixturevalue("redis_url") if kind == "redis" else None
    async with Fleet(factory) as fleet:
        first = fleet.manager()
        first.task(persist=True, name="job")(job)
        await fleet.start(first)
        waiting = await first.enqueue(job, delay=3_600)
        await fleet.die(first)
        await damage_instance(fleet.storage, name, value, url=url)

        second = fleet.manager()
        second.task(persist=True, name="job")(job)
        async with client_of(second) as client:
            task_id = await second.enqueue(job)
            assert (await finish(second, task_id)).status is TaskStatus.SUCCESS
            answer = await client.get("/tasks/instances")
            assert answer.status_code == 200
            assert [one["instance_id"] for one in answer.json()] == [second.engine.instance_id]
        # Nobody knows whether it lives, so its tasks stay its own.
        stored = await fleet.storage.get(waiting)
        assert stored is not None
        assert stored.status is TaskStatus.PENDING
    assert "cannot be read and is left out" in caplog.text


async def job() -> None: ...
