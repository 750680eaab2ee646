"""What is particular to Redis: its keys, its scripts, its indexes. The contract itself is the conformance suite's."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

import taskflow_otel.backends.redis as package
from taskflow_otel.backends.base import AppendLogs, Applied, Insert, Outcome, RetryLink, Update
from taskflow_otel.backends.redis import RedisBackend, backend, connection, failures, search
from taskflow_otel.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    MissingExtraError,
    SchemaVersionError,
)
from taskflow_otel.model.failure import fingerprint_of
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import Instance, TaskQuery, Trend
from taskflow_otel.model.record import LogEntry, Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.testing.backends.samples import BASE, finish, make_task

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def record(number: int = 0, **changes: Any) -> TaskRecord:
    fields: dict[str, Any] = {
        "task_id": new_task_id(),
        "func_name": "send_email",
        "status": TaskStatus.PENDING,
        "created_at": START + timedelta(seconds=number),
        "instance": "one",
    }
    return TaskRecord(**{**fields, **changes})


def finished(task: TaskRecord, status: TaskStatus = TaskStatus.SUCCESS, **changes: Any) -> TaskRecord:
    return msgspec.structs.replace(
        task, status=status, end_time=task.created_at + timedelta(seconds=2), duration=1.5, **changes
    )


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisBackend]:
    opened = RedisBackend(redis_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True, protocol=2) as raw:
        yield raw


async def test_a_record_comes_back_as_it_was_stored(redis: RedisBackend) -> None:
    task = record(
        func_name="schicke_grüße",
        run_at=START,
        start_time=START + timedelta(microseconds=1),
        attempt=2,
        retries_used=1,
        error="kaputt \x00 🎉",
        error_type="ValueError",
        stacktrace="Traceback …",
        tags={"kind": "a=b", "leer": "", "\x7f": "a\tb"},
        idempotency_key="Schlüssel",
        priority=-3,
        queue="langsam",
        progress=Progress(1.5, None, "läuft"),
        reason="retry_wait",
        timeline=(
            TimelineEntry(Transition.ENQUEUED, START, 0, "one"),
            TimelineEntry(Transition.STARTED, START, 0, "one", "x"),
        ),
        retry_of="other",
        retried_by="third",
        cancel_requested=True,
        logs_dropped=4,
        payload="p" * 2_000_000,
        persisted=True,
        token=7,
        crashes=1,
        trace=TaskTrace(SpanRef("a" * 32, "b" * 16, 1, "k=v"), SpanRef("c" * 32, "d" * 16), None, "user=1"),
    )
    await redis.apply([Insert(task)])
    assert await redis.get(task.task_id) == task
    assert (await redis.page(TaskQuery(trace_id="c" * 32))).records == [task]
    assert (await redis.page(TaskQuery(tag=("\x7f", "a\tb")))).records == [task]


async def test_every_key_has_the_prefix_and_none_of_them_expires(redis: RedisBackend, client: Redis) -> None:
    task = record(idempotency_key="k", tags={"a": "b"}, persisted=True)
    await redis.apply([Insert(task), AppendLogs(task.task_id, (LogEntry(0, START, "info", "hello", 0, {}),))])
    await redis.apply([Update(msgspec.structs.replace(task, status=TaskStatus.RUNNING))])
    await redis.request_cancel(task.task_id)
    await redis.beat(Instance("one", "h", 1, "0", START, START, 10.0))
    keys = [key async for key in client.scan_iter()]
    assert {key.partition(":")[0] for key in keys} == {"{taskflow}"}
    kept = [key for key in keys if not key.startswith("{taskflow}:writer:")]
    assert len(kept) > 10
    assert {await client.ttl(key) for key in kept} == {-1}


async def test_nothing_is_left_of_deleted_tasks(redis: RedisBackend, client: Redis) -> None:
    tasks = [record(n, idempotency_key=f"k{n}", tags={"n": str(n)}, persisted=bool(n % 2)) for n in range(450)]
    entry = LogEntry(0, START, "info", "hello", 0, {})
    await redis.apply([change for task in tasks for change in (Insert(task), AppendLogs(task.task_id, (entry,)))])
    for task in tasks[::3]:
        await redis.request_cancel(task.task_id)
    await redis.apply([Update(msgspec.structs.replace(task, status=TaskStatus.RUNNING)) for task in tasks])
    ends = random.Random(1).choices([TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELLED], k=len(tasks))
    await redis.apply([Update(finished(task, status)) for task, status in zip(tasks, ends, strict=True)])
    assert await redis.delete_finished(START + timedelta(days=1), 1_000) == 450
    left = {key.partition(":")[2].partition(":")[0] async for key in client.scan_iter()}
    # The figures outlive the tasks; they have a retention of their own.
    assert left == {"schema", "writer", "figures"}
    assert await redis.apply([AppendLogs(tasks[0].task_id, (entry,))])
    assert await redis.logs(tasks[0].task_id) == []


async def test_two_prefixes_on_one_server_know_nothing_of_each_other(redis_url: str, redis: RedisBackend) -> None:
    other = RedisBackend(redis_url, prefix="other")
    await other.open()
    task = record(idempotency_key="same")
    await redis.apply([Insert(task)])
    assert await other.get(task.task_id) is None
    assert await other.holder_of("same") is None
    assert await other.apply([Insert(record(idempotency_key="same"))]) == [Applied(Outcome.APPLIED)]
    assert (await other.counts(TaskQuery())).total == 1
    await other.close()


async def test_scripts_are_sent_again_when_the_server_has_forgotten_them(redis: RedisBackend, client: Redis) -> None:
    await client.script_flush()
    task = record()
    await redis.apply([Insert(task)])
    await client.script_flush()
    assert await redis.page(TaskQuery()) is not None
    assert (await redis.page(TaskQuery())).records == [task]


def _expected(tasks: list[TaskRecord], query: TaskQuery) -> list[TaskRecord]:
    def holds(task: TaskRecord) -> bool:
        text = (query.q or "").lower()
        return (
            (query.status is None or task.status is query.status)
            and (query.func_name is None or task.func_name == query.func_name)
            and (query.queue is None or task.queue == query.queue)
            and (query.source is None or task.source == query.source)
            and (query.trace_id is None or task.trace_id == query.trace_id)
            and (query.tag is None or (query.tag[0] in task.tags and query.tag[1] in (None, task.tags[query.tag[0]])))
            and (query.since is None or task.created_at >= query.since)
            and (query.until is None or task.created_at < query.until)
            and any(text in part.lower() for part in (task.func_name, task.error or "", task.task_id))
        )

    return sorted(filter(holds, tasks), key=lambda task: (task.created_at, task.task_id), reverse=True)


QUERIES = [
    {},
    {"status": TaskStatus.FAILED},
    {"func_name": "B"},
    {"func_name": "B", "status": TaskStatus.SUCCESS},
    {"func_name": "a", "queue": "slow"},
    {"queue": "slow", "source": "retry", "status": TaskStatus.FAILED},
    {"tag": ("t", None)},
    {"tag": ("t", "1")},
    {"trace_id": "2" * 32},
    {"since": START + timedelta(seconds=5), "until": START + timedelta(seconds=11)},
    {"since": START + timedelta(seconds=5), "func_name": "a"},
    {"until": START + timedelta(seconds=11), "status": TaskStatus.FAILED, "source": "manual"},
    {"q": "B"},
    {"q": "BÖSE", "since": START + timedelta(seconds=3)},
    {"func_name": "nobody"},
]


@pytest.mark.parametrize("filters", QUERIES, ids=lambda filters: "+".join(filters) or "all")
@pytest.mark.parametrize("scan_limit", [5_000, 10])
async def test_pages_and_counts_agree_with_a_plain_filter_over_all_tasks(
    redis: RedisBackend, monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any], scan_limit: int
) -> None:
    monkeypatch.setattr(search, "SCAN_LIMIT", scan_limit)
    monkeypatch.setattr(search, "_SCAN_STEP", 7)
    draw = random.Random(42)
    tasks = [
        record(
            draw.randrange(16),  # many share their time of creation with others
            func_name=draw.choice("aaB"),
            queue=draw.choice(["default", "slow"]),
            source=draw.choice(["manual", "retry"]),
            tags=draw.choice([{}, {"t": "1"}, {"t": "2", "u": "1"}]),
        )
        for _ in range(200)
    ]
    await redis.apply([Insert(task) for task in tasks])
    for _ in range(2):
        for n, task in enumerate(tasks):
            if task.status is TaskStatus.PENDING and draw.random() < 0.4:
                status = draw.choice([TaskStatus.SUCCESS, TaskStatus.FAILED])
                tasks[n] = finished(task, status, error="böse" if status is TaskStatus.FAILED else None)
                tasks[n].trace = TaskTrace(SpanRef(draw.choice("12") * 32, "1" * 16))
        await redis.apply([Update(task) for task in tasks])
    query = TaskQuery(**filters, limit=6)
    expected = _expected(tasks, query)

    found: list[TaskRecord] = []
    while True:
        page = await redis.page(query)
        found += page.records
        if page.next_cursor is None:
            break
        query = dataclasses.replace(query, cursor=page.next_cursor)
    assert found == expected

    if scan_limit > len(tasks):
        counts = await redis.counts(TaskQuery(**filters))
        ended = [task for task in expected if task.duration is not None]
        assert counts.by_status == Counter(task.status for task in expected)
        assert (counts.duration_sum, counts.duration_count) == (1.5 * len(ended), len(ended))


async def test_a_page_continues_after_its_last_task_was_deleted(redis: RedisBackend, client: Redis) -> None:
    made = [record(created_at=datetime.now(UTC)) for _ in range(20)]
    await redis.apply([Insert(finished(task)) for task in made])
    first = await redis.page(TaskQuery(limit=10))
    assert first.next_cursor == made[10].task_id
    await redis.apply([Insert(record(created_at=datetime.now(UTC)))])
    assert await redis.delete_finished(made[10].created_at + timedelta(seconds=2, microseconds=1), 5) == 5
    await client.delete(f"{{taskflow}}:task:{first.next_cursor}")
    rest = await redis.page(TaskQuery(limit=10, cursor=first.next_cursor))
    assert rest.records == [finished(task) for task in made[9:4:-1]]


async def test_a_key_that_was_stored_in_an_earlier_form_is_released(client: Redis, redis: RedisBackend) -> None:
    """Earlier versions stored keys with a NUL as they were."""
    task = record(idempotency_key="a\0", persisted=True)
    await redis.apply([Insert(task)])
    [(digest, holder)] = (await client.hgetall("{taskflow}:keys")).items()
    await client.hdel("{taskflow}:keys", digest)
    await client.hset("{taskflow}:keys", "a\0", holder)
    await client.hset(f"{{taskflow}}:task:{task.task_id}", "key", "a\0")
    await redis.apply([Update(finished(task, TaskStatus.FAILED))])
    assert await client.hgetall("{taskflow}:keys") == {}


@pytest.mark.parametrize("key", ["a\0", "\ud800", "a\ufffd\0b"])
async def test_a_key_that_was_stored_in_an_earlier_form_is_found_and_kept_from_others(
    client: Redis, redis: RedisBackend, key: str
) -> None:
    task, other = record(idempotency_key=key), record(1, idempotency_key=key)
    await redis.apply([Insert(task)])
    # As version 0.1.0 stored it.
    earlier = key.encode("utf-8", "surrogatepass")
    await client.delete("{taskflow}:keys")
    await client.hset("{taskflow}:keys", earlier, task.task_id)
    await client.hset(f"{{taskflow}}:task:{task.task_id}", "key", earlier)
    assert await redis.holder_of(key) == task.task_id
    assert await redis.apply([Insert(record()), Insert(other), Insert(task)]) == [
        Applied(Outcome.APPLIED),
        Applied(Outcome.DUPLICATE, task.task_id),
        Applied(Outcome.APPLIED),
    ]
    await redis.apply([Update(finished(task, TaskStatus.FAILED))])
    assert await redis.holder_of(key) is None
    assert await redis.apply([Insert(other)]) == [Applied(Outcome.APPLIED)]
    assert await redis.holder_of(key) == other.task_id


async def test_a_late_write_of_a_call_that_was_given_up_is_not_applied(redis_url: str, redis: RedisBackend) -> None:
    await redis.apply([Insert(record(persisted=True))])
    link = connection.Connection(redis_url, "{taskflow}", timeout=5, max_connections=2, cluster=False, wait_replicas=0)
    current, late = connection.OrderedCalls(link, "writer"), connection.OrderedCalls(link, "writer")
    take = ("take_over", "two", "10", "0", '["one"]')
    await current.write(*take, '["another name"]')
    await current.write(*take, '["another name"]')
    with pytest.raises(BackendUnavailableError):
        await late.write(*take, "false")
    await link.close()
    assert await redis.orphan_names(["one", "two"]) == {"send_email": 1}
    assert [task.instance for task in (await redis.page(TaskQuery())).records] == ["one"]


async def test_an_answered_command_gives_its_connection_back(redis_url: str) -> None:
    opened = RedisBackend(redis_url, max_connections=2)
    await opened.open()
    commands = [asyncio.ensure_future(opened.get("x")) for _ in range(50)]
    while not opened.connections_in_use():
        await asyncio.sleep(0)
    await asyncio.gather(*commands)
    assert opened.connections_in_use() == 0
    await opened.close()
    assert opened.connections_in_use() == 0


async def test_a_change_that_json_cannot_hold_is_refused_with_its_whole_batch(redis: RedisBackend) -> None:
    good, bad = record(), record(payload=b"bytes")
    with pytest.raises(BackendError, match="JSON") as caught:
        await redis.apply([Insert(good), Insert(bad)])
    assert not caught.value.transient
    assert await redis.get(good.task_id) is None


async def test_a_newer_schema_is_refused(redis_url: str, client: Redis) -> None:
    await client.set("{taskflow}:schema", backend.SCHEMA_VERSION + 1)
    with pytest.raises(SchemaVersionError, match="Upgrade taskflow-otel"):
        await RedisBackend(redis_url).open()


async def test_a_prefix_that_holds_something_else_is_refused(redis_url: str, client: Redis) -> None:
    await client.set("{taskflow}:schema", "not ours")
    with pytest.raises(BackendError, match="another prefix"):
        await RedisBackend(redis_url).open()


async def test_an_older_schema_is_migrated_step_by_step(
    redis_url: str, redis: RedisBackend, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = connection.script_source
    monkeypatch.setattr(
        connection, "script_source", lambda name: source("open") if name == "open" else _lift(int(name.split("_")[1]))
    )
    monkeypatch.setattr(backend, "SCHEMA_VERSION", 5)
    monkeypatch.setattr(backend, "MIGRATIONS", {3: "lift_3", 4: "lift_4"})
    newer = RedisBackend(redis_url)
    await newer.open()
    await newer.close()
    assert await client.get("{taskflow}:schema") == "5"
    assert await client.lrange("steps", 0, -1) == ["3", "4"]


async def test_failures_of_the_first_version_get_the_fingerprints_that_new_ones_have(
    redis_url: str, redis: RedisBackend, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_TOLD_AT_ONCE", 2)
    error = {"error": "no order 3", "error_type": "KeyError"}
    failed = [finish(make_task(**error), TaskStatus.FAILED) for _ in range(5)]
    retry = make_task(retry_of=failed[0].task_id)
    lost = finish(make_task(reason="process_died"), TaskStatus.INTERRUPTED)
    # Stored as the first version stored them: without failures.
    await redis.apply([Insert(task) for task in (*failed, lost)])
    await redis.apply([Insert(retry, link=RetryLink())])
    await client.set("{taskflow}:schema", 1)
    newer = RedisBackend(redis_url)
    await newer.open()
    kind = fingerprint_of("send", TaskStatus.FAILED, **error)
    other = fingerprint_of("send", TaskStatus.INTERRUPTED, reason=lost.reason)
    groups = (await newer.failure_store.groups(TaskQuery(), Trend(BASE, BASE))).groups
    assert {group.fingerprint: (group.total, group.open) for group in groups} == {kind: (5, 4), other: (1, 1)}
    assert len((await newer.page(TaskQuery(fingerprint=kind))).records) == 5
    assert (await newer.counts(TaskQuery())).by_status[TaskStatus.FAILED] == 5
    await newer.delete_tasks([task.task_id for task in failed])
    assert not (await newer.page(TaskQuery(fingerprint=kind))).records
    assert await client.get("{taskflow}:schema") == "3"
    await newer.close()


def _lift(version: int) -> str:
    return (
        f"if redis.call('GET', KEYS[1] .. ':schema') == '{version}' then redis.call('RPUSH', 'steps', '{version}') "
        f"redis.call('SET', KEYS[1] .. ':schema', '{version + 1}') end return 1"
    )


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("http://localhost", {}, "URL"),
        ("redis://localhost/0?nonsense=1", {}, "nonsense"),
        ("redis://localhost/0?decode_responses=0", {}, "decode_responses"),
        ("redis://localhost/0?encoding=latin-1", {}, "encoding"),
        ("redis://localhost/0?encoding_errors=ignore", {}, "encoding_errors"),
        ("redis://localhost/0?protocol=3", {}, "protocol"),
        ("redis://localhost/0?socket_timeout=60", {}, "socket_timeout"),
        ("redis://localhost/0?max_connections=1", {}, "max_connections"),
        ("redis://localhost/0?retry_on_timeout=1", {}, "retry_on_timeout"),
        ("redis://localhost/0?db=x", {}, "db"),
        ("redis://localhost/0?health_check_interval=x", {}, "health_check_interval"),
        ("redis://localhost/0?ssl_cert_reqs=none", {}, "rediss"),
        ("redis://localhost:port/0", {}, "URL"),
        ("redis://localhost/0", {"namespace": "A b"}, "namespace"),
        ("redis://localhost/0", {"prefix": ""}, "prefix"),
        ("redis://localhost/0", {"prefix": "a{b}"}, "prefix"),
        ("redis://localhost/0", {"timeout": 0}, "timeout"),
        ("redis://localhost/0", {"max_connections": 0}, "max_connections"),
        ("redis://localhost/0", {"wait_replicas": -1}, "wait_replicas"),
        ("redis://localhost/0", {"wait_replicas": 1, "cluster": True}, "wait_replicas"),
    ],
)
def test_a_wrong_parameter_is_an_error_at_the_call(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RedisBackend(url, **options)


async def test_url_options_that_change_nothing_of_the_codec_are_taken(redis_url: str) -> None:
    opened = RedisBackend(f"{redis_url}?client_name=tasks&health_check_interval=5&socket_keepalive=yes")
    await opened.open()
    task = record()
    await opened.apply([Insert(task)])
    assert await opened.get(task.task_id) == task
    await opened.close()


async def test_two_namespaces_in_one_database_do_not_see_each_other(redis_url: str, client: Redis) -> None:
    backends = [RedisBackend(redis_url, namespace=namespace) for namespace in (None, "shop", "mail")]
    tasks = [record(idempotency_key="k") for _ in backends]
    for opened, task in zip(backends, tasks, strict=True):
        await opened.open()
        assert (await opened.apply([Insert(task)]))[0].outcome is Outcome.APPLIED
    for opened, task in zip(backends, tasks, strict=True):
        assert await opened.holder_of("k") == task.task_id
        assert (await opened.page(TaskQuery())).records == [task]
        await opened.close()
    assert await client.exists(f"{{taskflow:shop}}:task:{tasks[1].task_id}") == 1


def test_without_redis_py_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "taskflow_otel.backends.redis.connection")
    monkeypatch.delattr(package, "connection")
    with pytest.raises(MissingExtraError, match=r"taskflow-otel\[redis\]"):
        RedisBackend("redis://localhost/0")


async def test_a_closed_backend_says_so(redis: RedisBackend) -> None:
    await redis.close()
    await redis.close()
    with pytest.raises(BackendError, match="not open"):
        await redis.get("x")
    with pytest.raises(BackendError, match="not open"):
        await redis.apply([Insert(record())])


async def test_a_server_that_keeps_everything_is_opened_without_a_warning(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "taskflow_otel"):
        opened = RedisBackend(redis_url, require_aof=True)
        await opened.open()
        await opened.close()
    assert caplog.records == []
