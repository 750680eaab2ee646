"""A row that cannot be read as it should be, written by hand or by another version, hides nothing but itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy import text

from taskflow_otel import TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import Backend
from taskflow_otel.backends.base import Insert
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.backends.samples import full_task
from tests.asgi import running
from tests.backends.conftest import FACTORIES, BackendFactory
from tests.ledger.fleet import Fleet
from tests.managers import finish

ANY_SQL = [
    ("tags", "{"), ("tags", '["a"]'), ("tags", '{"c":"\\ud800"}'), ("progress", '["a",NaN,Infinity]'),
    ("progress", "[]"), ("timeline", '[["moved",1,2,3,4]]'), ("timeline", "[]"), ("trace", "[1]"), ("status", "gone"),
    ("source", "elsewhere"), ("created_at", 2**62), ("run_at", -(2**62)), ("attempt", -5), ("queue", ""),
    ("payload", '{"v":1,"args":[NaN,"\\ud800"],"kwargs":{}}'), ("payload", "{"),
]  # fmt: skip
ONLY_SQLITE = [
    ("created_at", "yesterday"), ("priority", "high"), ("error", b"\xff\xfe"), ("duration", 9e999), ("attempt", 1.5),
]  # fmt: skip
REDIS = [
    ("head", "{"), ("head", "[1]"), ("doc", "null"), ("doc", "[NaN]"), ("status", "gone"), ("token", "many"),
    ("head", json.dumps(["f", "yesterday", {"c": 1}, None, 7, None, '{"v":1}', 1])),
]  # fmt: skip


async def damage(backend: Backend, name: str, value: Any, *, url: str | None = None) -> None:
    """Write a value into every stored task."""
    if isinstance(backend, SqlBackend):
        assert backend._write_engine is not None
        async with backend._write_engine.begin() as connection:
            await connection.execute(text(f"UPDATE taskflow_tasks SET {name} = :value"), {"value": value})
        return
    assert url is not None
    async with Redis.from_url(url, decode_responses=True) as client:
        async for key in client.scan_iter("{taskflow}:task:*"):
            if await client.type(key) == "hash":
                await client.hset(key, name, value)


@asynccontextmanager
async def client_of(manager: TaskManager) -> AsyncIterator[httpx.AsyncClient]:
    """The administration of a manager, over HTTP."""
    app = FastAPI()
    TaskAdmin(app, manager, display_func_args=True)
    async with running(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


CASES = [
    *((kind, *case) for kind in ("sqlite", "postgres", "mysql") for case in ANY_SQL),
    *(("sqlite", *case) for case in ONLY_SQLITE),
    *(("redis", *case) for case in REDIS),
]


@pytest.mark.parametrize(
    ("kind", "name", "value"), CASES, ids=[f"{kind}-{name}-{number}" for number, (kind, name, _) in enumerate(CASES)]
)
async def test_a_damaged_row_hides_neither_its_page_nor_itself(
    request: pytest.FixtureRequest, kind: str, name: str, value: Any
) -> None:
    factory: BackendFactory = FACTORIES[kind](request)
    url: str | None = request.getfixturevalue("redis_url") if kind == "redis" else None
    async with Fleet(factory) as fleet:
        first = fleet.manager()

        @first.task(persist=True)
        async def job(number: int = 0) -> None: ...

        await fleet.start(first)
        task_id = await first.enqueue(job, 1)
        await finish(first, task_id)
        await fleet.stop(first)
        await damage(fleet.storage, name, value, url=url)

        second = fleet.manager()
        second.task(persist=True, name="job")(job)
        async with client_of(second) as client:
            sound = await second.enqueue(job)
            await finish(second, sound)
            pages = [await client.get(path) for path in ("/tasks", "/tasks/stats", "/tasks/failures", "/tasks/metrics")]
            assert [page.status_code for page in pages] == [200] * 4
            listed = {task["task_id"]: task for task in pages[0].json()}
            assert set(listed) >= {sound, task_id}
            assert listed[sound]["damage"] is None
            detail = await client.get(f"/tasks/{task_id}")
            assert detail.status_code == 200
            json.dumps(detail.json(), allow_nan=False)


@pytest.mark.parametrize("kind", sorted(set(FACTORIES) - {"memory"}))
async def test_what_cannot_be_read_is_named_and_a_takeover_ends_the_task(
    request: pytest.FixtureRequest, kind: str
) -> None:
    factory: BackendFactory = FACTORIES[kind](request)
    url: str | None = request.getfixturevalue("redis_url") if kind == "redis" else None
    async with Fleet(factory) as fleet:
        first = fleet.manager()

        @first.task(persist=True)
        async def job() -> None: ...

        await fleet.start(first)
        task_id = await first.enqueue(job, delay=3_600)
        other_id = await first.enqueue(job, delay=3_600)
        await fleet.die(first)
        await damage(fleet.storage, "status", "gone", url=url)
        stored = await fleet.storage.get(task_id)
        assert stored is not None
        assert stored.damage is not None
        assert "status ('gone')" in stored.damage
        assert stored.func_name == "job"

        second = fleet.manager()
        second.task(persist=True, name="job")(job)
        await fleet.start(second)
        assert (await finish(second, task_id)).status is TaskStatus.INTERRUPTED
        assert (await finish(second, other_id)).status is TaskStatus.INTERRUPTED


async def test_text_that_is_not_utf_8_does_not_refuse_the_page_that_it_is_on(request: pytest.FixtureRequest) -> None:
    async with Fleet(FACTORIES["sqlite"](request)) as fleet:
        await fleet.storage.apply([Insert(full_task())])
        assert isinstance(fleet.storage, SqlBackend)
        assert fleet.storage._write_engine is not None
        async with fleet.storage._write_engine.begin() as connection:
            await connection.execute(text("UPDATE taskflow_tasks SET error = CAST(x'61ff' AS TEXT)"))
        assert [record.error for record in (await fleet.storage.page(TaskQuery())).records] == ["a\ufffd"]
