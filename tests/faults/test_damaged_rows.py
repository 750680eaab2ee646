"""A row that cannot be read as it should be, written by hand or by another version, hides nothing but itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from redis.asyncio import Redis
from sqlalchemy import text

from taskflow_otel import TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import Backend
from taskflow_otel.backends.base import Insert
from taskflow_otel.backends.redis import codec
from taskflow_otel.backends.sql import mapping
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.model.plain import encodable
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import LogEntry
from taskflow_otel.testing.backends.samples import BASE, full_task
from taskflow_otel.web.schemas import task_detail
from tests.asgi import running
from tests.backends.conftest import FACTORIES, BackendFactory
from tests.faults.values import Said, anything, boxed, texts
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


ROW = [field.name for field in mapping.STORED]
SOUND = dict(zip(ROW, mapping.row_maker(mapping.STORED)(full_task()), strict=False))
HEAD, DOC = codec.dump_head(full_task()), codec.dump_doc(full_task())
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts(), inner, max_size=3)),
    max_leaves=6,
)
json_texts = st.one_of(json_values.map(json.dumps), st.text(max_size=10))


def shown(record: Any, logs: list[LogEntry]) -> None:
    """What the page of a task says is valid JSON."""
    document = task_detail(record, logs, with_args=True).model_dump(mode="json")
    json.dumps(document, allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(st.dictionaries(st.sampled_from(ROW), boxed(st.one_of(anything(), json_texts)), min_size=1, max_size=3))
def test_any_row_of_a_table_becomes_a_record_that_can_be_shown(junk: dict[str, Said]) -> None:
    row = {**SOUND, **{name: said.value for name, said in junk.items()}}
    # No driver returns them: a database has no text with lone surrogates, and SQLite's is read with escapes.
    row = {name: encodable(value) if type(value) is str else value for name, value in row.items()}
    shown(mapping.to_record(row.values()), [])


@given(boxed(st.tuples(anything(), anything(), anything(), anything(), st.one_of(anything(), json_texts))))
def test_any_row_of_a_log_becomes_an_entry_that_can_be_shown(said: Said) -> None:
    shown(full_task(), [mapping.to_log_entry((full_task().task_id, 0, *said.value))])


@given(
    status=st.one_of(st.sampled_from(["success", "running"]), texts()),
    token=st.one_of(st.just("1"), texts()),
    places=st.dictionaries(st.integers(0, 18), json_values, max_size=3),
    whole=st.one_of(st.none(), json_texts),
)
def test_any_row_of_redis_becomes_a_record_that_can_be_shown(
    status: str, token: str, places: dict[int, Any], whole: str | None
) -> None:
    head, doc = json.loads(HEAD), json.loads(DOC)
    for place, value in places.items():
        doc[place] = value
        if place < len(head):
            head[place] = value
    for row in ((json.dumps(head), DOC), (HEAD, json.dumps(doc)), (whole, DOC), (HEAD, whole)):
        shown(codec.load_record(("one", token, status, None, None, *row, full_task().task_id)), [])


@given(json_texts)
def test_any_log_entry_of_redis_can_be_shown(stored: str) -> None:
    shown(full_task(), [codec.load_log(0, stored)])


def test_lone_surrogates_reach_a_codec_and_come_back_as_escapes() -> None:
    task = full_task()
    task.reason, task.error, task.tags = "\ud800", "a\udcff ☕ 🎉", {"\udc80": "\ud800"}
    task.timeline[0] = replace(task.timeline[0], reason="\ud800")
    sql = mapping.to_record(mapping.row_maker(mapping.STORED)(task)[: len(ROW)])
    head, doc = codec.dump_head(task), codec.dump_doc(task)
    redis = codec.load_record((task.instance, str(task.token), task.status.value, None, None, head, doc, task.task_id))
    for read in (sql, redis):
        assert read.tags == {"\\udc80": "\\ud800"}
        assert read.timeline[0].reason == "\\ud800"
        shown(read, [])
    assert redis.error == "a\\udcff ☕ 🎉"


def test_a_sound_row_is_read_as_it_is_and_has_no_damage() -> None:
    task = full_task()
    row = mapping.row_maker(mapping.STORED)(task)[: len(ROW)]
    assert mapping.to_record(row) == task
    assert mapping.to_record(row).damage is None
    loaded = codec.load_record(
        (task.instance, str(task.token), task.status.value, None, task.retried_by, codec.dump_head(task),
         codec.dump_doc(task), task.task_id)
    )  # fmt: skip
    assert loaded.damage is None
    assert task.created_at > BASE
