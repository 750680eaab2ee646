"""The connection to a Redis server: one client, its scripts, and the translation of the driver's errors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache, partial
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, SSLConnection, parse_url
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
_SAFE_COMPLAINTS = ("Redis URL must specify", "Invalid value for")
_SAYS = {
    Fault.PASSING: "cannot do this now",
    Fault.CONNECTION: "does not answer as a writable server",
    Fault.HELD: "refused a request",
    Fault.CHANGE: "cannot store a value",
    Fault.SETUP: "is not set up for this",
}
_AOF_SECONDS = 1.5
"""Seconds that a server with `appendfsync everysec` may need for a sync, on a disk that is fast enough."""
_SHARE_OF_WAIT = 0.5
"""A share of the time limit of one command."""
_QUIET = 60.0
"""Seconds that one wait for a message may take."""


@contextmanager
def translated(*, opening: bool = False) -> Iterator[None]:
    """Translate the driver's errors into `BackendUnavailableError`, or `BackendError` if waiting cannot help."""
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
        raise backend_error(fault, message, opening=opening, reason=message) from error


def check_url(url: str) -> None:
    """Raise `ConfigurationError` unless redis-py can read this URL and this backend can work with its options."""
    try:
        parsed = parse_url(url)
    except (ValueError, TypeError, AttributeError) as error:
        # A password whose "/" is not escaped shows in other messages, as a port that is not a number.
        said = str(error) if str(error).startswith(_SAFE_COMPLAINTS) else "redis-py cannot read it"
        raise ConfigurationError(
            f"the Redis URL is wrong: {said}. It looks like this: redis://user:password@host:6379/0; in a password, "
            "write %2F for / and %40 for @"
        ) from None
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
    """Return the source of one script, after the code that all scripts share."""
    folder = resources.files(__package__) / "lua"
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))


@cache
def _script_digest(name: str) -> str:
    return hashlib.sha1(script_source(name).encode(), usedforsecurity=False).hexdigest()


class _Pool(BlockingConnectionPool):
    """A pool that closes what is returned to it after its end: an abandoned command may end much later."""

    over = False

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back."""
        await super().release(connection)
        if self.over:
            await connection.disconnect()


class Connection:
    """A pool of connections to one server (or cluster), and the scripts called through it.

    Every key begins with `tag`, which is each script's `KEYS[1]`. `timeout`: seconds for one command.
    """

    def __init__(
        self, url: str, tag: str, *, timeout: float, max_connections: int, cluster: bool, wait_replicas: int
    ) -> None:
        # One immediate retry replaces a pooled connection that the server has closed. A command that timed out may
        # still be executed later: the caller decides whether to send it again.
        retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 1, (exceptions.ConnectionError,))
        options: dict[str, Any] = {
            "decode_responses": True,
            # Users' texts can hold lone surrogates (`os.fsdecode`), which must come back unchanged.
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
        """A lasting write returns when the server's file has it (`WAITAOF`)."""
        self._client: Redis | RedisCluster
        self._pool: _Pool | None = None
        """`None` for a cluster, which has pools of its own."""
        if cluster:
            self._client = RedisCluster.from_url(url, max_connections=max_connections, **options)
        else:
            self._pool = _Pool.from_url(url, max_connections=max_connections, timeout=timeout, **options)
            self._client = Redis.from_pool(self._pool)

    @property
    def in_use(self) -> int:
        """Connections checked out of the pool; 0 for a cluster, whose pools do not tell."""
        if self._pool is None:
            return 0
        counted = self._pool.get_connection_count()
        return sum(number for number, attributes in counted if "used" in attributes.values())

    async def close(self) -> None:
        """Close the connections now, and those in use again when their commands have ended."""
        if self._pool is not None:
            self._pool.over = True
        await self._client.aclose()

    @property
    def can_wait_for_sync(self) -> bool:
        """Whether the time limit of a command allows for a server that syncs its file every second."""
        return self._timeout * _SHARE_OF_WAIT >= _AOF_SECONDS

    def opened(self) -> None:
        """From now on, wait for repairs by a person instead of raising."""
        self._opening = False

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """Translate the driver's errors; discard all idle connections if this one is dead or leads to a replica."""
        with translated(opening=self._opening):
            try:
                yield
            except (exceptions.RedisError, OSError) as error:
                # Only a new connection finds the successor of a replica. Whatever silenced this connection may have
                # silenced the others: one time limit for all of them. Those in use are discarded by their own errors.
                if self._pool is not None and redis_fault(error) is Fault.CONNECTION:
                    await self._pool.disconnect(inuse_connections=False)
                raise

    async def command(self, name: str, *args: str) -> Any:
        """Run one command on keys of this backend."""
        async with self._guarded():
            return await self._client.execute_command(name, *args)

    async def hear(self, channel: str, subscribed: Callable[[], None], heard: Callable[[str], None]) -> None:
        """Call `subscribed` at once, and `heard` with each message of a channel, as long as the connection lasts.

        Returns at once on a cluster, whose client has no channels.
        """
        if isinstance(self._client, RedisCluster):
            return
        async with self._guarded(), self._client.pubsub(ignore_subscribe_messages=True) as messages:
            await messages.subscribe(f"{self._tag}:{channel}")
            subscribed()
            while True:
                # Without a time, the limit of a command would end the wait.
                if (message := await messages.get_message(timeout=_QUIET)) is not None:
                    heard(message["data"])

    async def info(self, section: str) -> dict[str, Any] | None:
        """Return one section of the server's INFO; `None` if the account may not read it."""
        return await self._asked("info", section)

    async def setting(self, name: str) -> str | None:
        """Return one setting of the server; `None` if the account may not read it."""
        found = await self._asked("config_get", name)
        return None if found is None else found.get(name)

    async def _asked(self, question: str, about: str) -> dict[str, Any] | None:
        async with self._guarded():
            try:
                if isinstance(self._client, RedisCluster):
                    await self._client.initialize()
                    node = self._client.get_node_from_key(self._tag)
                    return dict(await getattr(self._client, question)(about, target_nodes=node))
                return dict(await getattr(self._client, question)(about))
            except exceptions.ResponseError as error:
                # Hosted servers remove or rename these commands.
                if redis_code(error) == "NOPERM" or "unknown command" in str(error):
                    return None
                raise

    async def read(self, script: str, *args: str) -> Any:
        """Run a script that changes nothing."""
        async with self._guarded():
            return await self._evaluate(script, args, self._alone)

    async def write(self, script: str, *args: str, lasting: bool = False) -> Any:
        """Run a script that changes something; with `wait_replicas`, return once the replicas have it.

        `lasting`: return once the server's file has it too, if the server can confirm that (`syncs`).
        """
        waits: list[tuple[str, ...]] = []
        limit = str(int(self._timeout * _SHARE_OF_WAIT * 1_000))
        if self._wait_replicas:
            waits.append(("WAIT", str(self._wait_replicas), limit))
        if lasting and self.syncs:
            waits.append(("WAITAOF", "1", "0", limit))
        async with self._guarded():
            return await self._evaluate(script, args, partial(self._confirmed, waits) if waits else self._alone)

    async def _evaluate(self, script: str, args: tuple[str, ...], run: Callable[..., Awaitable[Any]]) -> Any:
        try:
            return await run("EVALSHA", _script_digest(script), "1", self._tag, *args)
        except exceptions.NoScriptError:
            return await run("EVAL", script_source(script), "1", self._tag, *args)

    async def _alone(self, *command: str) -> Any:
        return await self._client.execute_command(*command)

    async def _confirmed(self, waits: Sequence[tuple[str, ...]], *command: str) -> Any:
        # These commands are about the writes of their connection, so all use the same one.
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
    """Script calls of one writer, one at a time and numbered, so that a late call is never applied after a newer one.

    A call that timed out may reach the server much later; the server compares the numbers and ignores it.
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
