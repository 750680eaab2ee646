"""Redis in trouble: restarted, killed, stopped, full, forgetful, demoted, sharded. Each test has servers of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from taskflow_otel.backends.base import Change, Insert, Outcome, Update
from taskflow_otel.backends.redis import RedisBackend, connection
from taskflow_otel.errors import BackendError, BackendUnavailableError, ConfigurationError
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from tests.servers import RedisServer, free_port
from tests.waiting import eventually


def record(**changes: Any) -> TaskRecord:
    fields: dict[str, Any] = {
        "task_id": new_task_id(),
        "func_name": "send_email",
        "status": TaskStatus.PENDING,
        "created_at": datetime.now(UTC),
        "instance": "one",
    }
    return TaskRecord(**{**fields, **changes})


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(url, **options)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as own:
        yield own


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url, decode_responses=True, protocol=2) as client:
        yield client


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_what_was_acknowledged_is_there_after_the_server_comes_back(server: RedisServer, end: str) -> None:
    async with opened(server.url) as backend:
        tasks = [record() for _ in range(300)]
        await asyncio.gather(*(backend.apply([Insert(task)]) for task in tasks))
        getattr(server, end)()
        with pytest.raises(BackendUnavailableError):
            await backend.get(tasks[0].task_id)
        with pytest.raises(BackendUnavailableError):
            await backend.apply([Insert(record())])
        server.start()
        assert (await backend.page(TaskQuery(limit=1_000))).records == tasks[::-1]
        assert (await backend.apply([Insert(task) for task in tasks]))[0].outcome is Outcome.APPLIED


async def test_a_full_server_refuses_the_whole_batch_and_takes_it_when_there_is_room(
    server: RedisServer, admin: Redis
) -> None:
    async with opened(server.url) as backend:
        kept = record()
        await backend.apply([Insert(kept)])
        await admin.config_set("maxmemory", "1mb")
        batch: list[Change] = [Update(replace(kept, status=TaskStatus.RUNNING)), *(Insert(record()) for _ in range(10))]
        with pytest.raises(BackendUnavailableError):
            await backend.apply(batch)
        assert (await backend.page(TaskQuery())).records == [kept]
        await admin.config_set("maxmemory", "0")
        await backend.apply(batch)
        assert (await backend.counts(TaskQuery())).by_status == {TaskStatus.RUNNING: 1, TaskStatus.PENDING: 10}


@pytest.mark.parametrize(
    ("call", "stale_data", "said"),
    [
        ("apply", "yes", "read only replica"),
        ("request_cancel", "yes", "read only replica"),
        ("apply", "no", "MASTER is down"),
        ("get", "no", "MASTER is down"),
        ("page", "no", "MASTER is down"),
    ],
)
async def test_no_connection_is_kept_that_leads_to_a_server_that_became_a_replica(
    call: str, stale_data: str, said: str
) -> None:
    task = record()
    done: list[Change] = [Update(replace(task, status=TaskStatus.SUCCESS))]
    arguments: dict[str, Any] = {"apply": done, "page": TaskQuery()}
    with RedisServer({"replica-serve-stale-data": stale_data}) as server:
        async with opened(server.url) as backend, Redis.from_url(server.url, protocol=2) as admin:
            own = await admin.client_id()

            async def connections() -> set[int]:
                return {int(found["id"]) for found in await admin.client_list("normal")} - {own}

            await asyncio.gather(*(backend.get(task.task_id) for _ in range(5)))
            await backend.apply([Insert(task)])
            before = await connections()
            assert len(before) > 1
            await admin.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
            assert await connections() == before
            with pytest.raises(BackendUnavailableError, match=said):
                await getattr(backend, call)(arguments.get(call, task.task_id))

            async def replaced() -> bool:
                return before.isdisjoint(await connections())

            await eventually(replaced, "the end of the old connections")
            await admin.execute_command("REPLICAOF", "NO", "ONE")
            assert [applied.outcome for applied in await backend.apply(done)] == [Outcome.APPLIED]


async def test_a_stopped_server_is_a_timeout_and_recovers(server: RedisServer) -> None:
    async with opened(server.url, timeout=0.2) as backend:
        task = record()
        await backend.apply([Insert(task)])
        server.pause()
        with pytest.raises(BackendUnavailableError):
            await backend.apply([Update(replace(task, status=TaskStatus.RUNNING))])
        with pytest.raises(BackendUnavailableError):
            await backend.counts(TaskQuery())
        server.resume()
        done = replace(task, status=TaskStatus.SUCCESS)
        assert [applied.outcome for applied in await backend.apply([Update(done)])] == [Outcome.APPLIED]
        assert (await backend.page(TaskQuery())).records == [done]


async def test_tasks_taken_over_in_an_answer_that_was_lost_are_handed_out_again(server: RedisServer) -> None:
    async with opened(server.url, timeout=0.2) as backend, opened(server.url) as observer:
        task = record(persisted=True)
        await backend.apply([Insert(task)])
        # Now the server knows the script, and executes it whenever the call reaches it.
        assert await backend.take_over(["nobody"], "two", None, 10) == []
        server.pause()
        with pytest.raises(BackendUnavailableError):
            await backend.take_over(["one"], "two", None, 10)
        server.resume()

        async def taken() -> bool:
            stored = await observer.get(task.task_id)
            return stored is not None and stored.instance == "two"

        await eventually(taken, "the takeover")
        assert await backend.take_over(["one"], "two", None, 10) == [replace(task, instance="two", token=2)]
        assert await backend.take_over(["one"], "two", None, 10) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"appendonly": "no"}, "append-only"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "allkeys-lru"),
    ],
)
async def test_a_server_that_forgets_is_warned_about_or_refused(
    options: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(options) as server:
        with caplog.at_level(logging.WARNING, "taskflow_otel"):
            async with opened(server.url):
                pass
        assert [message in entry.getMessage() for entry in caplog.records] == [True]
        with pytest.raises(ConfigurationError, match=message):
            await RedisBackend(server.url, require_aof=True).open()


async def test_a_wrong_password_is_not_worth_another_try(server: RedisServer, admin: Redis) -> None:
    await admin.config_set("requirepass", "secret")
    with pytest.raises(BackendError) as caught:
        await RedisBackend(server.url).open()
    assert not caught.value.transient
    async with opened(server.url.replace("//", "//:secret@")) as backend:
        assert await backend.get("x") is None


async def test_an_account_that_may_not_ask_for_information_can_still_open(server: RedisServer, admin: Redis) -> None:
    await admin.acl_setuser(
        "app", enabled=True, passwords=["+pw"], keys=["{taskflow}*"], commands=["+@all", "-@dangerous"]
    )
    async with opened(server.url.replace("//", "//app:pw@")) as backend:
        task = record()
        await backend.apply([Insert(task)])
        assert await backend.get(task.task_id) == task


async def test_a_required_file_that_the_account_may_not_ask_about_ends_the_start(
    server: RedisServer, admin: Redis
) -> None:
    await admin.acl_setuser("app", enabled=True, passwords=["+pw"], keys=["{taskflow}*"], commands=["+@all", "-info"])
    with pytest.raises(ConfigurationError, match=r"may not read the state of the Redis server.*\+info"):
        await RedisBackend(server.url.replace("//", "//app:pw@"), require_aof=True).open()


async def test_writes_wait_for_the_replica_and_fail_without_it() -> None:
    task = record()
    with (
        RedisServer({"repl-diskless-sync-delay": "0"}) as server,
        RedisServer({"replicaof": f"127.0.0.1 {server.port}"}) as replica,
    ):
        async with Redis.from_url(replica.url, protocol=2) as client:

            async def in_sync() -> bool:
                return bool((await client.info("replication"))["master_link_status"] == "up")

            await eventually(in_sync, "the replica to follow")
        async with opened(server.url, wait_replicas=1, timeout=5.0) as backend:
            await backend.apply([Insert(task)])
            async with opened(replica.url) as other:
                assert (await other.page(TaskQuery())).records == [task]
                with pytest.raises(BackendUnavailableError):
                    await other.apply([Insert(record())])
            replica.kill()
            with pytest.raises(BackendUnavailableError, match="0 of 1"):
                await backend.apply([Update(replace(task, status=TaskStatus.RUNNING))])


async def test_a_cluster_keeps_everything_in_one_slot() -> None:
    with RedisServer({"cluster-enabled": "yes", "cluster-port": str(free_port()), "databases": "1"}) as server:
        async with Redis.from_url(server.url, decode_responses=True, protocol=2) as admin:
            await admin.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

            async def up() -> bool:
                return "cluster_state:ok" in str(await admin.execute_command("CLUSTER", "INFO"))

            await eventually(up, "the cluster to answer")
        async with opened(server.url, cluster=True) as backend:
            task = record(idempotency_key="k", tags={"a": "b"}, persisted=True)
            await backend.apply([Insert(task)])
            assert await backend.get(task.task_id) == task
            assert (await backend.counts(TaskQuery())).total == 1
            assert len(await backend.take_over(["one"], "two", {"send_email"}, 10)) == 1


@pytest.mark.parametrize(
    ("version", "appendfsync", "options", "waits"),
    [
        ("7.2.0", "everysec", {}, True),
        ("8.0.1", "no", {}, True),
        ("7.2.0", None, {}, True),
        ("7.2.0", "always", {}, False),
        ("7.0.15", "everysec", {}, False),
        ("7.2.0", "everysec", {"wait_aof": False}, False),
        ("7.2.0", "everysec", {"timeout": 1.0}, False),
    ],
)
async def test_a_task_is_acknowledged_when_the_file_of_the_server_has_it(
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    appendfsync: str | None,
    options: dict[str, Any],
    waits: bool,
) -> None:
    """A stand-in for a newer server: it counts what is asked of it, and answers for its file."""
    asked: list[tuple[str, ...]] = []
    synced = [1]
    ask, execute = connection.Connection._asked, Pipeline.execute
    add = Pipeline.execute_command

    async def answer(link: connection.Connection, question: str, about: str) -> dict[str, Any] | None:
        if about == "appendfsync":
            return None if appendfsync is None else {"appendfsync": appendfsync}
        return {"redis_version": version} if about == "server" else await ask(link, question, about)

    def noted(pipe: Pipeline, *words: str, **more: Any) -> Any:
        if words[0] != "WAITAOF":
            return add(pipe, *words, **more)
        asked.append(words)
        return pipe

    async def executed(pipe: Pipeline, raise_on_error: bool = True) -> list[Any]:
        return [*await execute(pipe, raise_on_error), [synced[0], 0]]

    monkeypatch.setattr(connection.Connection, "_asked", answer)
    monkeypatch.setattr(Pipeline, "execute_command", noted)
    monkeypatch.setattr(Pipeline, "execute", executed)
    async with opened(server.url, **options) as backend:
        task = record(persisted=True)
        await backend.apply([Insert(record())])
        assert not asked
        await backend.apply([Insert(task), Insert(record())])
        assert len(asked) == waits
        await backend.apply([Update(replace(task, status=TaskStatus.RUNNING)), Insert(record())])
        await backend.put_setting("a", "b")
        assert len(asked) == waits
        if waits:
            assert asked == [("WAITAOF", "1", "0", "2500")]
            synced[0] = 0
            with pytest.raises(BackendUnavailableError, match="sync"):
                await backend.apply([Insert(record(persisted=True))])
