"""`RedisBackend`: the contract of a backend on Redis."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, assert_never

from taskflow_otel.backends.base import AppendLogs, AppendSpans, Applied, Change, Insert, Outcome, Update
from taskflow_otel.backends.forks import Forks
from taskflow_otel.backends.limits import DEFAULT_LEASE, Limits
from taskflow_otel.backends.namespace import check_namespace
from taskflow_otel.backends.redis import codec
from taskflow_otel.backends.redis.audit import RedisAuditStore
from taskflow_otel.backends.redis.failures import RedisFailureStore, tell_failures
from taskflow_otel.backends.redis.fields import Field, groups_of, insert_fields, old_key, read_group, update_fields
from taskflow_otel.backends.redis.figures import RedisFigureStore
from taskflow_otel.backends.redis.operations import RedisOperationStore
from taskflow_otel.backends.redis.pool import RedisBell, RedisPoolStore
from taskflow_otel.backends.redis.search import Searcher
from taskflow_otel.backends.redis.spans import RedisSpanStore
from taskflow_otel.backends.redis.texts import plain_json, to_json, to_micros
from taskflow_otel.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    DeclaredDeadError,
    MissingExtraError,
    SchemaVersionError,
)
from taskflow_otel.model.options import seconds, whole
from taskflow_otel.model.plain import distinct_text
from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery, sound
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.runtime.readable import Readable

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection, OrderedCalls

logger: logging.Logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
MIGRATIONS: dict[int, str | Callable[[Connection], Awaitable[None]]] = {1: tell_failures, 2: "spans_added"}
"""The script that migrates the schema from each version to the next; it sets `schema`, if the version still matches."""

_DELETE_STEP = 200
_READ_AT_ONCE = 20

_APPLIED = Applied(Outcome.APPLIED)
_STALE = Applied(Outcome.STALE)


class RedisBackend:
    """Tasks in a Redis (6 or later) or Valkey server, under one prefix.

    The durability of an acknowledged task depends on the server. With `appendonly yes` and `appendfsync always` it
    survives power loss. With `everysec`, a server of version 7.2 or later must confirm that its file has the new task
    before the acknowledgement (`WAITAOF`, up to a second; `wait_aof=False` turns this off). An older server that dies
    loses what it had not written: up to the last second, or more on a slow disk. Without an append-only file there is
    no guarantee. A failover loses what the replica had not received. `wait_replicas` is the number of replicas for
    which each write waits: this makes such a loss less likely but not impossible. An eviction policy other than
    `noeviction` (or `volatile-*`) deletes tasks when memory runs out. `open` logs a warning about a server that may
    lose tasks.

    An index answers pages and counts with at most one of name, queue, source, tag or trace id, with or without a
    status and a time range (with a range, the durations are those of its newest `SCAN_LIMIT` tasks). Any further
    condition is checked on the members of the smallest index, newest first, at most `SCAN_LIMIT` of them. A page then
    ends early with a cursor for the next page; a count or total covers the newest `SCAN_LIMIT` and is marked as a
    lower bound. `changed_since` compares with the clock of the server.

    Parameters: `url` for redis-py (`redis://`, `rediss://`, `unix://`); `prefix` of every key, to which `namespace` is
    added, as for the other backends; `timeout` in seconds for one command (default: a third of the lease, at most
    10 s); `max_connections` of the pool; `require_aof` makes `open` raise `ConfigurationError` in place of the warning,
    and if the server's settings cannot be read; `cluster` for a Redis Cluster (all keys share one slot);
    `wait_replicas` and `wait_aof` as above.

    Raises `MissingExtraError` if redis-py is not installed, and `ConfigurationError` for a wrong parameter.
    """

    name = "redis"
    durable = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "taskflow",
        namespace: str | None = None,
        timeout: float | None = None,
        max_connections: int = 10,
        require_aof: bool = False,
        cluster: bool = False,
        wait_replicas: int = 0,
        wait_aof: bool = True,
    ) -> None:
        try:
            from taskflow_otel.backends.redis import connection
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "redis":
                raise
            raise MissingExtraError("RedisBackend", "redis") from error
        connection.check_url(url)
        if not prefix or not prefix.isprintable() or set(prefix) & set("{}"):
            raise ConfigurationError(f"prefix must be printable text without braces, not {prefix!r}")
        if cluster and wait_replicas:
            raise ConfigurationError("wait_replicas is not supported on a cluster: its replicas are chosen per shard")
        if namespace is not None:
            check_namespace(namespace)
            prefix = f"{prefix}:{namespace}"
        self._driver = connection
        self._url = url
        self._where = f"the Redis prefix {prefix!r}"
        self._tag = f"{{{prefix}}}"
        self._asked_timeout = None if timeout is None else seconds("timeout", timeout, exclusive=True)
        self.use_lease(DEFAULT_LEASE)
        self._max_connections = whole("max_connections", max_connections, minimum=1)
        self._require_aof = require_aof
        self._cluster = cluster
        self._wait_replicas = whole("wait_replicas", wait_replicas, minimum=0)
        self._wait_aof = wait_aof
        self._readable = Readable(logger)
        self._link: Connection | None = None
        self._ordered: OrderedCalls | None = None
        self._forks = Forks()
        self._unanswered: set[str] = set()
        """New owners whose latest `take_over` got no answer."""
        self.audit_store: RedisAuditStore = RedisAuditStore(lambda: self._connection)
        """What people did through the administration."""
        self.operation_store: RedisOperationStore = RedisOperationStore(lambda: self._connection)
        """Bulk operations."""
        self.figure_store: RedisFigureStore = RedisFigureStore(lambda: self._connection)
        """What finished in each minute and hour."""
        self.failure_store: RedisFailureStore = RedisFailureStore(lambda: self._connection)
        """Groups of failures."""
        self.span_store: RedisSpanStore = RedisSpanStore(lambda: self._connection, self._tag)
        """The spans of attempts."""
        self.pool_store: RedisPoolStore = RedisPoolStore(self._write_in_order, lambda: self._connection)
        """The tasks of shared queues that nobody owns yet."""
        self.pool_bell: RedisBell = RedisBell(lambda: self._connection)
        """Rings when another process adds one."""

    def use_lease(self, lease_seconds: float) -> None:
        """Derive the time limit of a command from the lease; a given `timeout` is used if it is shorter."""
        self._limits = Limits.of_lease(lease_seconds, self._asked_timeout)

    async def open(self) -> None:
        """Connect; check the schema version and the durability of the server.

        Raises `SchemaVersionError`, `BackendUnavailableError`, and with `require_aof` `ConfigurationError`.
        """
        if not self._forks.crossed(self._link) and self._link is not None:
            return
        self._limits.report(self._where)
        link = self._driver.Connection(
            self._url,
            self._tag,
            timeout=self._limits.operation,
            max_connections=self._max_connections,
            cluster=self._cluster,
            wait_replicas=self._wait_replicas,
        )
        try:
            await self._check_schema(link)
            await self._check_durability(link)
        except BaseException:
            await link.close()
            raise
        link.opened()
        self._link = link
        # A new writer each time: the server refuses calls with the numbers of an earlier one.
        self._ordered = self._driver.OrderedCalls(link, uuid.uuid4().hex)

    async def close(self) -> None:
        """Release every connection."""
        link, self._link, self._ordered = self._link, None, None
        if link is not None:
            await link.close()

    async def _check_schema(self, link: Connection) -> None:
        while True:
            found = await link.write("open", str(SCHEMA_VERSION))
            if not found.isdecimal():
                raise BackendError(f"{self._where} holds other data than tasks; choose another prefix", transient=False)
            version = int(found)
            if version > SCHEMA_VERSION:
                raise SchemaVersionError(self._where, version, SCHEMA_VERSION)
            if version == SCHEMA_VERSION:
                return
            step = MIGRATIONS[version]
            await (link.write(step) if isinstance(step, str) else step(link))

    async def _check_durability(self, link: Connection) -> None:
        persistence, memory = await link.info("persistence"), await link.info("memory")
        faults = []
        if persistence is None or memory is None:
            if self._require_aof:
                raise ConfigurationError(
                    "require_aof=True, but this account may not read the state of the Redis server: it needs the "
                    "permission to run INFO (ACL SETUSER … +info)"
                )
            return
        if persistence.get("aof_enabled") == 0:
            faults.append("it has no append-only file, so acknowledged tasks are lost when it stops (appendonly yes)")
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys-"):
            faults.append(f"it deletes tasks when its memory is full ({policy}; maxmemory-policy noeviction)")
        if faults:
            message = f"the Redis server may lose tasks: {'; '.join(faults)}"
            if self._require_aof:
                raise ConfigurationError(message)
            logger.warning("%s", message)
        if persistence.get("aof_enabled") == 1 and self._wait_aof and not self._cluster:
            await self._wait_for_file(link)

    async def _wait_for_file(self, link: Connection) -> None:
        version = (await link.info("server") or {}).get("redis_version", "0")
        if not _knows_waitaof(str(version)) or await link.setting("appendfsync") == "always":
            return
        if link.can_wait_for_sync:
            link.syncs = True
        else:
            logger.warning(
                "a command to the Redis server may take %g s, which is too short to wait until its file has a task "
                "(appendfsync everysec): use a longer lease or timeout, or appendfsync always",
                self._limits.operation,
            )

    def connections_in_use(self) -> int:
        """Connections in use now; 0 for a cluster, whose pools do not tell."""
        return 0 if self._link is None else self._link.in_use

    @property
    def _connection(self) -> Connection:
        if self._link is None:
            raise _not_open()
        return self._link

    async def _write_in_order(self, name: str, *args: str, lasting: bool = False) -> Any:
        if self._ordered is None:
            raise _not_open()
        return await self._ordered.write(name, *args, lasting=lasting)

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all changes in one script call."""
        if not changes:
            return []
        try:
            args = _apply_args(changes)
        except (TypeError, ValueError) as error:
            reason = f"a change cannot be written as JSON: {error}"
            raise BackendError(reason, transient=False, reason=reason) from error
        acknowledges = any(isinstance(change, Insert) and change.record.persisted for change in changes)
        answers = await self._write_in_order("apply", *args, lasting=acknowledges)
        if isinstance(answers, str):
            raise DeclaredDeadError(answers)
        return [
            _APPLIED if code == "A" else _STALE if code == "S" else Applied(Outcome.DUPLICATE, code[1:])
            for code in answers
        ]

    async def get(self, task_id: str) -> TaskRecord | None:
        """One task without its logs."""
        row = await self._connection.command("HMGET", f"{self._tag}:task:{task_id}", *codec.ROW_FIELDS)
        return None if row[0] is None else codec.load_record([*row, task_id])

    async def get_all(self, task_ids: Collection[str]) -> dict[str, TaskRecord]:
        """Those of these tasks that are stored, by id, without their logs."""
        ids, found = list(task_ids), dict[str, TaskRecord]()
        for start in range(0, len(ids), _READ_AT_ONCE):
            records = await asyncio.gather(*map(self.get, ids[start : start + _READ_AT_ONCE]))
            found |= {record.task_id: record for record in records if record is not None}
        return found

    async def logs(self, task_id: str) -> list[LogEntry]:
        """The log of one task, in order."""
        stored = await self._connection.command("HGETALL", f"{self._tag}:logs:{task_id}")
        entries = sorted((int(seq), entry) for seq, entry in stored.items())
        return [codec.load_log(seq, entry) for seq, entry in entries]

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page, newest first; the class describes how many tasks are read."""
        return await Searcher(self._connection, query).page()

    async def counts(self, query: TaskQuery) -> TaskCounts:
        """Counts by status; the class describes how many tasks are read."""
        return await Searcher(self._connection, query).counts()

    async def holder_of(self, idempotency_key: str) -> str | None:
        """The id of the task that holds the key."""
        forms = (distinct_text(idempotency_key), *old_key(idempotency_key))
        holders: list[str | None] = await self._connection.command("HMGET", f"{self._tag}:keys", *forms)
        return next((holder for holder in holders if holder is not None), None)

    async def changed_since(self, moment: datetime, *, not_of: str, limit: int) -> list[TaskRecord]:
        """Tasks of other instances written at or after `moment`, oldest change first."""
        rows = await self._connection.read("changed_since", str(to_micros(moment)), not_of, str(limit))
        return [codec.load_record(row) for row in rows]

    async def request_cancel(self, task_id: str) -> bool:
        """Ask the owner of a live task to cancel it."""
        return bool(await self._connection.write("request_cancel", task_id))

    async def cancel_requests(self, instance_id: str) -> list[str]:
        """Live tasks of this instance for which a cancellation was requested, oldest first."""
        return sorted(await self._connection.command("SMEMBERS", f"{self._tag}:cancel:{instance_id}"))

    async def beat(self, instance: Instance) -> bool:
        """Write the instance's heartbeat."""
        return bool(await self._connection.write("beat", *codec.dump_instance(instance)))

    async def instances(self) -> list[Instance]:
        """All known instances, oldest first."""
        rows = await self._connection.read("instances")
        found = [self._readable.read(f"an instance stored as {row[0]!r:.200}", _instance, row) for row in rows]
        instances = [instance for instance in found if instance is not None]
        return sorted(instances, key=lambda known: (known.started_at, known.instance_id))

    async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
        """Declare an instance dead if its heartbeat is still `seen_heartbeat`."""
        heartbeat = str(to_micros(seen_heartbeat))
        return bool(await self._connection.write("declare_dead", instance_id, heartbeat, uuid.uuid4().hex))

    async def take_over(
        self,
        dead: Collection[str],
        new_owner: str,
        names: Collection[str] | None,
        limit: int,
        seals: Collection[str] = (),
    ) -> list[TaskRecord]:
        """Take unfinished tasks of dead or stopped instances.

        If an answer was lost, the next call of the same owner returns its tasks again.
        """
        lost = new_owner in self._unanswered
        self._unanswered.add(new_owner)
        rows = await self._write_in_order(
            "take_over",
            new_owner,
            str(limit),
            f"{lost:d}",
            to_json(sorted(dead)),
            to_json(False if names is None else groups_of(names, seals)),
        )
        self._unanswered.discard(new_owner)
        return [codec.load_record(row) for row in rows]

    async def orphan_names(self, dead: Collection[str], beyond: Collection[str] | None = None) -> dict[str, int]:
        """Names and counts of the unfinished tasks of these instances."""
        totals: Counter[str] = Counter()
        for group, number in await self._connection.read("orphans", *dead):
            persisted, name, seal = read_group(group)
            if beyond is None or (persisted and seal and seal not in beyond):
                totals[name] += number
        return dict(totals)

    async def forget_instances(self, ids: Collection[str]) -> None:
        """Delete dead or stopped instances without unfinished tasks."""
        await self._connection.write("forget", *ids)

    async def delete_finished(self, before: datetime, limit: int) -> int:
        """Delete tasks that ended before this moment, in steps that keep the server responsive."""
        deleted = 0
        while deleted < limit:
            step = min(_DELETE_STEP, limit - deleted)
            number = await self._connection.write("delete_finished", str(to_micros(before)), str(step))
            deleted += number
            if number < step:
                break
        return deleted

    async def delete_tasks(self, task_ids: Collection[str]) -> list[str]:
        """Delete those of these tasks that have finished, in steps that keep the server responsive."""
        ids, deleted = list(dict.fromkeys(task_ids)), list[str]()
        for start in range(0, len(ids), _DELETE_STEP):
            deleted += await self._connection.write("delete_tasks", *ids[start : start + _DELETE_STEP])
        return deleted

    async def latest_once(self, prefix: str) -> tuple[str, str] | None:
        """The greatest name used once with this prefix, and the task that used it."""
        found = await self._connection.read("latest_once", prefix)
        return (found[0], found[1]) if found else None

    async def forget_once(self, prefix: str, before: str, limit: int) -> int:
        """Delete names used once that are less than `before`."""
        return int(await self._connection.write("forget_once", prefix, before, str(limit)))

    async def settings(self, prefix: str) -> dict[str, str]:
        """The settings whose keys begin with `prefix`."""
        found = await self._connection.read("settings", prefix)
        return dict(zip(found[::2], found[1::2], strict=True))

    async def put_setting(self, key: str, value: str | None) -> None:
        """Write or delete one setting."""
        await self._connection.write("put_setting", key, *([] if value is None else [value]))

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        """Write several settings in one script call if the expected ones match."""
        args = [str(len(expected))]
        for key, value in (*expected.items(), *changes.items()):
            args += (key, "0" if value is None else "1", value or "")
        return bool(await self._connection.write("swap_settings", *args))


def _not_open() -> BackendUnavailableError:
    return BackendUnavailableError("the RedisBackend is not open. Start the manager, or await backend.open() first.")


def _knows_waitaof(version: str) -> bool:
    parts = version.split(".")
    return all(part.isdecimal() for part in parts[:2]) and tuple(map(int, parts[:2])) >= (7, 2)


def _apply_args(changes: Sequence[Change]) -> list[str]:
    rows: list[list[Field]] = []
    texts: list[str] = []
    for change in changes:
        match change:
            case Insert(record, once, link):
                link_of = ["", ""] if link is None else [record.retry_of or "", link.seen or ""]
                former_key = old_key(record.idempotency_key)
                rows.append(["I", *insert_fields(record), once or "", *link_of, "1" if former_key else ""])
                texts += (codec.dump_doc(record), codec.dump_head(record), *former_key)
            case Update(record):
                rows.append(["U", *update_fields(record)])
                texts.append(codec.dump_doc(record))
            case AppendLogs(task_id, entries):
                rows.append(["L", task_id, *(text for entry in entries for text in codec.dump_log(entry))])
            case AppendSpans(task_id, owner, token, attempt, text):
                rows.append(["T", task_id, owner, str(token), str(attempt), text])
            case _:
                assert_never(change)
    return [plain_json(rows), *texts]


def _instance(row: Sequence[str]) -> Instance:
    return sound(codec.load_instance(row))
