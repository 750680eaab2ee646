"""The way to a Redis server: one client, the scripts on it, and the driver's errors in the library's words."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from taskflow_otel.errors import BackendError, BackendUnavailableError, ConfigurationError

# States of the server that pass: full, loading, failing over, unable to write its file, busy with another's script.
# An older server wraps the code of an error inside a script in a sentence of its own.
_PASSING = (exceptions.OutOfMemoryError, exceptions.ReadOnlyError, exceptions.TryAgainError)
_PASSING_CODE = re.compile(r"\b(OOM|LOADING|READONLY|MISCONF|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY)\b")

_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,
    OSError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the driver raises as `BackendUnavailableError`, or `BackendError` where waiting cannot help."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.AuthorizationError) as error:
        raise BackendError(f"Redis refuses the credentials of the URL: {error}", transient=False) from error
    except _UNREACHABLE as error:
        raise BackendUnavailableError(f"Redis does not answer: {error}") from error
    except exceptions.MovedError as error:
        raise BackendError(
            "this server is part of a cluster: RedisBackend(url, cluster=True)", transient=False
        ) from error
    except exceptions.ResponseError as error:
        if isinstance(error, _PASSING) or _PASSING_CODE.search(str(error)):
            raise BackendUnavailableError(f"Redis cannot do this at the moment: {error}") from error
        raise BackendError(f"Redis refused a request: {error}", transient=False) from error
    except exceptions.RedisError as error:
        raise BackendError(f"Redis failed: {error}", transient=False) from error


def check_url(url: str) -> None:
    """Raise `ConfigurationError` unless redis-py can read this URL."""
    try:
        parse_url(url)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the Redis URL is wrong: {error}") from error


@cache
def script_source(name: str) -> str:
    """Return one script with what all scripts share in front."""
    folder = resources.files(__package__) / "lua"
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))


@cache
def _script_digest(name: str) -> str:
    return hashlib.sha1(script_source(name).encode(), usedforsecurity=False).hexdigest()


class Connection:
    """A pool of connections to one server (or cluster), and the scripts called through it.

    `tag` begins every key and is each script's `KEYS[1]`. `timeout` is seconds for one command.
    """

    def __init__(
        self, url: str, tag: str, *, timeout: float, max_connections: int, cluster: bool, wait_replicas: int
    ) -> None:
        # One immediate second try replaces a pooled connection that the server has closed. A command that timed
        # out may still be executed: the caller decides whether it is sent again.
        retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 1, (exceptions.ConnectionError,))
        options: dict[str, Any] = {
            "decode_responses": True,
            # Texts of users can hold lone surrogates (`os.fsdecode`): they must come back as they were.
            "encoding_errors": "surrogatepass",
            "protocol": 2,
            "retry": retry,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        self._tag = tag
        self._timeout = timeout
        self._wait_replicas = wait_replicas
        self._client: Redis | RedisCluster
        if cluster:
            self._client = RedisCluster.from_url(url, max_connections=max_connections, **options)
        else:
            pool = BlockingConnectionPool.from_url(url, max_connections=max_connections, timeout=timeout, **options)
            self._client = Redis.from_pool(pool)

    @property
    def in_use(self) -> int:
        """Connections checked out of the pool; 0 for a cluster, whose pools do not tell."""
        if isinstance(self._client, RedisCluster):
            return 0
        counted = self._client.connection_pool.get_connection_count()
        return sum(number for number, attributes in counted if "used" in attributes.values())

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def command(self, name: str, *args: str) -> Any:
        """Run one command on keys of this backend."""
        with translated():
            return await self._client.execute_command(name, *args)

    async def info(self, section: str) -> dict[str, Any]:
        """Return one section of what the server says about itself; empty where it may not be asked."""
        with translated():
            try:
                if isinstance(self._client, RedisCluster):
                    await self._client.initialize()
                    node = self._client.get_node_from_key(self._tag)
                    return dict(await self._client.info(section, target_nodes=node))
                return dict(await self._client.info(section))
            except exceptions.NoPermissionError:
                return {}

    async def read(self, script: str, *args: str) -> Any:
        """Run a script that changes nothing."""
        with translated():
            return await self._evaluate(script, args, self._alone)

    async def write(self, script: str, *args: str) -> Any:
        """Run a script that changes something; where replicas are waited for, return once they have it."""
        with translated():
            try:
                return await self._evaluate(script, args, self._replicated if self._wait_replicas else self._alone)
            except exceptions.ReadOnlyError:
                # The server became a replica: only a new connection finds the one that took its place.
                if isinstance(self._client, Redis):
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                raise

    async def _evaluate(self, script: str, args: tuple[str, ...], run: Callable[..., Awaitable[Any]]) -> Any:
        try:
            return await run("EVALSHA", _script_digest(script), "1", self._tag, *args)
        except exceptions.NoScriptError:
            return await run("EVAL", script_source(script), "1", self._tag, *args)

    async def _alone(self, *command: str) -> Any:
        return await self._client.execute_command(*command)

    async def _replicated(self, *command: str) -> Any:
        # WAIT speaks of the writes of its own connection, so both go through one.
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.execute_command(*command)
            pipe.execute_command("WAIT", str(self._wait_replicas), str(int(self._timeout * 500)))
            answer, reached = await pipe.execute(raise_on_error=False)
        for reply in (answer, reached):
            if isinstance(reply, Exception):
                raise reply
        if reached < self._wait_replicas:
            raise BackendUnavailableError(
                f"only {reached} of {self._wait_replicas} Redis replicas confirmed a write in time"
            )
        return answer


class OrderedCalls:
    """Script calls of one writer, one at a time and numbered, so that a late one is never applied after its successor.

    A call that timed out may reach the server long after; the server compares the numbers and leaves it undone.
    """

    def __init__(self, connection: Connection, writer: str) -> None:
        self._connection = connection
        self._writer = writer
        self._number = 0
        self._lock = asyncio.Lock()

    async def write(self, script: str, *args: str) -> Any:
        """Run a guarded script (`superseded` in the scripts)."""
        async with self._lock:
            self._number += 1
            answer = await self._connection.write(script, self._writer, str(self._number), *args)
        if answer is None:
            raise BackendUnavailableError("Redis already holds a later write of this process; try again")
        return answer
