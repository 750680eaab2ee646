"""What Redis's own error codes mean, asked of real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from redis import exceptions
from redis.asyncio import Redis

from taskflow_otel.backends import RedisBackend
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.backends.faults import Fault
from taskflow_otel.backends.redis.faults import redis_code, redis_fault
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.fixtures import APPLIED
from taskflow_otel.testing.backends.samples import make_task
from tests.servers import RedisServer, free_port
from tests.waiting import wait_until

REPLIES = {
    "LOADING Redis is loading the dataset in memory": Fault.PASSING,
    "OOM command not allowed when used memory > 'maxmemory'.": Fault.PASSING,
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": Fault.PASSING,
    "NOREPLICAS Not enough good replicas to write.": Fault.PASSING,
    "TRYAGAIN Multiple keys request during rehashing of slot": Fault.PASSING,
    "CLUSTERDOWN The cluster is down": Fault.PASSING,
    "BUSY Redis is busy running a script.": Fault.PASSING,
    "NOSCRIPT No matching script. Please use EVAL.": Fault.PASSING,
    "READONLY You can't write against a read only replica.": Fault.CONNECTION,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": Fault.CONNECTION,
    "UNBLOCKED force unblock from blocking operation": Fault.CONNECTION,
    "NOAUTH Authentication required.": Fault.SETUP,
    "WRONGPASS invalid username-password pair or user is disabled.": Fault.SETUP,
    "NOPERM this user has no permissions to run the 'evalsha' command": Fault.SETUP,
    "WRONGTYPE Operation against a key holding the wrong kind of value": Fault.SETUP,
    "CROSSSLOT Keys in request don't hash to the same slot": Fault.SETUP,
    "MOVED 3999 127.0.0.1:6381": Fault.SETUP,
    "ASK 3999 127.0.0.1:6381": Fault.PASSING,
    "ERR unknown command 'EVALSHA'": Fault.SETUP,
    "ERR DB index is out of range": Fault.SETUP,
    "ERR max number of clients reached": Fault.CONNECTION,
    "ERR something that nobody has heard of": Fault.HELD,
}


@pytest.mark.parametrize(("reply", "fault"), REPLIES.items(), ids=[reply[:16] for reply in REPLIES])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_an_error_of_redis_is_judged_by_its_code(redis_url: str, reply: str, fault: Fault, protocol: int) -> None:
    async with Redis.from_url(redis_url, protocol=protocol) as client:
        with pytest.raises(exceptions.RedisError) as caught:
            await client.eval("return redis.error_reply(ARGV[1])", 0, reply)
    assert redis_fault(caught.value) is fault


def test_the_code_is_found_in_the_sentence_that_an_older_server_puts_around_it() -> None:
    wrapped = exceptions.ResponseError(
        "Error running script (call to f_6a0c): @user_script:7: -READONLY You can't write against a read only replica."
    )
    assert redis_code(wrapped) == "READONLY"


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (exceptions.ConnectionError("closed"), Fault.CONNECTION),
        (exceptions.TimeoutError("late"), Fault.CONNECTION),
        (OSError("no route"), Fault.CONNECTION),
        (exceptions.DataError("no encoding"), Fault.CHANGE),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "no"), Fault.CHANGE),
    ],
)
def test_an_error_of_this_side_is_judged_by_its_class(error: Exception, fault: Fault) -> None:
    assert redis_fault(error) is fault


def replica(server: RedisServer) -> Callable[[], str]:
    port = free_port()
    server.execute("REPLICAOF", "127.0.0.1", str(port))
    return lambda: server.execute("REPLICAOF", "NO", "ONE")


def no_replicas(server: RedisServer) -> Callable[[], str]:
    server.execute("CONFIG", "SET", "min-replicas-to-write", "1")
    return lambda: server.execute("CONFIG", "SET", "min-replicas-to-write", "0")


def full(server: RedisServer) -> Callable[[], str]:
    server.execute("CONFIG", "SET", "maxmemory", "1")
    return lambda: server.execute("CONFIG", "SET", "maxmemory", "0")


def no_right(server: RedisServer) -> Callable[[], str]:
    server.execute("ACL", "SETUSER", "default", "-evalsha")
    return lambda: server.execute("ACL", "SETUSER", "default", "+evalsha")


@pytest.mark.parametrize("trouble", [replica, no_replicas, full, no_right])
async def test_a_server_that_cannot_write_at_the_moment_refuses_nothing_for_good(
    trouble: Callable[[RedisServer], Callable[[], str]],
) -> None:
    with RedisServer() as server:
        backend = RedisBackend(server.url)
        await backend.open()
        task = make_task()
        assert await backend.apply([Insert(task)]) == [APPLIED]
        end = trouble(server)
        running = [Update(replace(task, status=TaskStatus.RUNNING))]
        for _ in range(2):
            with pytest.raises(BackendUnavailableError) as caught:
                await backend.apply(running)
            assert not caught.value.divisible
        end()
        assert await backend.apply(running) == [APPLIED]
        await backend.close()


async def test_a_server_that_has_forgotten_its_scripts_is_given_them_again(
    redis_server: RedisServer, redis_url: str
) -> None:
    backend = RedisBackend(redis_url)
    await backend.open()
    assert await backend.apply([Insert(make_task())]) == [APPLIED]
    redis_server.execute("SCRIPT", "FLUSH")
    assert await backend.apply([Insert(make_task())]) == [APPLIED]
    await backend.close()


async def test_a_key_of_another_kind_is_waited_for_and_ends_a_start(redis_url: str) -> None:
    backend = RedisBackend(redis_url)
    await backend.open()
    async with Redis.from_url(redis_url) as client:
        await client.set("{taskflow}:task:strange", "text")
        with pytest.raises(BackendUnavailableError, match="is not set up"):
            await backend.get("strange")
        await client.delete("{taskflow}:schema")
        await client.rpush("{taskflow}:schema", "1")
        with pytest.raises(BackendError) as caught:
            await RedisBackend(redis_url).open()
    assert not caught.value.transient
    await backend.close()


async def test_a_busy_server_is_waited_for() -> None:
    with RedisServer({"busy-reply-threshold": "50"}) as server:
        backend = RedisBackend(server.url)
        await backend.open()
        async with Redis.from_url(server.url) as client:
            endless = asyncio.ensure_future(client.eval("while true do end", 0))
            await asyncio.sleep(0)
            await asyncio.to_thread(wait_until, lambda: "BUSY" in server.execute("GET", "x"), "the script to run")
            with pytest.raises(BackendUnavailableError, match="cannot do this now"):
                await backend.apply([Insert(make_task())])
            server.execute("SCRIPT", "KILL")
            with pytest.raises(exceptions.ResponseError):
                await endless
        assert await backend.apply([Insert(make_task())]) == [APPLIED]
        await backend.close()


async def test_a_cluster_without_its_slots_is_waited_for() -> None:
    options: dict[str, Any] = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "databases": "1"}
    with RedisServer(options) as server, pytest.raises(BackendUnavailableError):
        await RedisBackend(server.url).open()
