"""The way to a Redis server: one client, the scripts on it, and the driver's errors in the library's words."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from taskflow_otel.backends.faults import Fault, backend_error
from taskflow_otel.backends.redis.faults import redis_code, redis_fault
from taskflow_otel.errors import BackendUnavailableError, ConfigurationError

_URL_OPTIONS = frozenset(
    {
        "db", "username", "password", "client_name", "health_check_interval", "socket_keepalive",
        "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path",
        "ssl_check_hostname", "ssl_min_version", "ssl_ciphers", "ssl_password",
    }
)  # fmt: skip
_SAYS = {
    Fault.PASSING: "cannot do this at the moment",
    Fault.CONNECTION: "does not answer as a server that can be written to",
    Fault.HELD: "refused a request",
    Fault.CHANGE: "cannot store a value",
    Fault.SETUP: "is not set up for this",
}
_AOF_SECONDS = 1.5
"""How long a server with `appendfsync everysec` may take to sync, on a disk that keeps up."""
_SHARE_OF_WAIT = 0.5
"""Of the time for one command."""


@contextmanager
def translated(*, opening: bool = False) -> Iterator[None]:
    """Raise what the driver raises as `BackendUnavailableError`, or `BackendError` where waiting cannot help."""
    try:
        yield
    except (exceptions.RedisError, OSError, ValueError, TypeError) as error:
        fault = redis_fault(error)
        if opening and fault is Fault.HELD:
            fault = Fault.SETUP
        code = redis_code(error)
        if code in ("NOAUTH", "WRONGPASS"):
            message = f"Redis refuses the credentials of the URL: {error}"
        elif code == "MOVED":
            message = f"this server is part of a cluster: RedisBackend(url, cluster=True) ({error})"
        else:
            message = f"Redis {_SAYS[fault]}: {error}"
        raise backend_error(fault, message, opening=opening) from error


def check_url(url: str) -> None:
    """Raise `ConfigurationError` unless redis-py can read this URL and this backend can work with its options."""
    try:
        parsed = parse_url(url)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"the Redis URL is wrong: {error}") from error
    options = parse_qs(urlsplit(url).query, keep_blank_values=True)
    if unknown := sorted(set(options) - _URL_OPTIONS):
        raise ConfigurationError(
            f"the Redis URL has options that cannot be set there: {', '.join(unknown)}. "
            f"Possible are {', '.join(sorted(_URL_OPTIONS))}; times and sizes are parameters of RedisBackend."
        )
    secured = sorted(name for name in options if name.startswith("ssl_"))
    if secured and parsed.get("connection_class") is not SSLConnection:
        raise ConfigurationError(f"the Redis URL has {', '.join(secured)}, which only rediss:// can use")


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
        self._opening = True
        self.syncs = False
        """A write that must last is answered when the server's file has it (`WAITAOF`)."""
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

    @property
    def can_wait_for_sync(self) -> bool:
        """Whether one command may take as long as a server takes that syncs its file each second."""
        return self._timeout * _SHARE_OF_WAIT >= _AOF_SECONDS

    def opened(self) -> None:
        """From now on what a person has to put right is waited for."""
        self._opening = False

    def _translated(self) -> AbstractContextManager[None]:
        return translated(opening=self._opening)

    async def command(self, name: str, *args: str) -> Any:
        """Run one command on keys of this backend."""
        with self._translated():
            return await self._client.execute_command(name, *args)

    async def info(self, section: str) -> dict[str, Any] | None:
        """Return one section of what the server says about itself; `None` where it may not be asked."""
        return await self._asked("info", section)

    async def setting(self, name: str) -> str | None:
        """Return one setting of the server; `None` where it may not be asked."""
        found = await self._asked("config_get", name)
        return None if found is None else found.get(name)

    async def _asked(self, question: str, about: str) -> dict[str, Any] | None:
        with self._translated():
            try:
                if isinstance(self._client, RedisCluster):
                    await self._client.initialize()
                    node = self._client.get_node_from_key(self._tag)
                    return dict(await getattr(self._client, question)(about, target_nodes=node))
                return dict(await getattr(self._client, question)(about))
            except exceptions.ResponseError as error:
                # Hosted servers take these commands away, or rename them.
                if redis_code(error) == "NOPERM" or "unknown command" in str(error):
                    return None
                raise

    async def read(self, script: str, *args: str) -> Any:
        """Run a script that changes nothing."""
        with self._translated():
            return await self._evaluate(script, args, self._alone)

    async def write(self, script: str, *args: str, lasting: bool = False) -> Any:
        """Run a script that changes something; where replicas are waited for, return once they have it.

        `lasting`: return once the server's file has it too, if the server can say so (`syncs`).
        """
        waits: list[tuple[str, ...]] = []
        limit = str(int(self._timeout * _SHARE_OF_WAIT * 1_000))
        if self._wait_replicas:
            waits.append(("WAIT", str(self._wait_replicas), limit))
        if lasting and self.syncs:
            waits.append(("WAITAOF", "1", "0", limit))
        with self._translated():
            try:
                return await self._evaluate(script, args, partial(self._confirmed, waits) if waits else self._alone)
            except exceptions.ResponseError as error:
                # The server became a replica: only a new connection finds the one that took its place.
                if redis_fault(error) is Fault.CONNECTION and isinstance(self._client, Redis):
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                raise

    async def _evaluate(self, script: str, args: tuple[str, ...], run: Callable[..., Awaitable[Any]]) -> Any:
        try:
            return await run("EVALSHA", _script_digest(script), "1", self._tag, *args)
        except exceptions.NoScriptError:
            return await run("EVAL", script_source(script), "1", self._tag, *args)

    async def _alone(self, *command: str) -> Any:
        return await self._client.execute_command(*command)

    async def _confirmed(self, waits: Sequence[tuple[str, ...]], *command: str) -> Any:
        # These speak of the writes of their own connection, so all go through one.
        async with self._client.pipeline(transaction=False) as pipe:
            for words in (command, *waits):
                pipe.execute_command(*words)
            answer, *confirmed = await pipe.execute(raise_on_error=False)
        for reply in (answer, *confirmed):
            if isinstance(reply, Exception):
                raise reply
        for (name, wanted, *_), reached in zip(waits, confirmed, strict=True):
            if name == "WAIT" and reached < int(wanted):
                raise BackendUnavailableError(f"only {reached} of {wanted} Redis replicas confirmed a write in time")
            if name == "WAITAOF" and reached[0] < int(wanted):
                raise BackendUnavailableError("the Redis server did not sync a write to its file in time")
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

    async def write(self, script: str, *args: str, lasting: bool = False) -> Any:
        """Run a guarded script (`superseded` in the scripts)."""
        async with self._lock:
            self._number += 1
            answer = await self._connection.write(script, self._writer, str(self._number), *args, lasting=lasting)
        if answer is None:
            raise BackendUnavailableError("Redis already holds a later write of this process; try again")
        return answer
