"""Tasks kept in plain dictionaries: for tests, and for history without a database."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never

from msgspec.structs import replace

from taskflow_otel.backends.base import AppendLogs, AppendSpans, Applied, Change, Insert, Outcome, Update, owners_of
from taskflow_otel.backends.memory_admin import MemoryAuditStore, MemoryOperationStore
from taskflow_otel.backends.memory_failures import MemoryFailureStore
from taskflow_otel.backends.memory_figures import MemoryFigureStore
from taskflow_otel.backends.memory_pool import MemoryPoolStore
from taskflow_otel.backends.memory_spans import MemorySpanStore
from taskflow_otel.backends.namespace import check_namespace
from taskflow_otel.errors import DeclaredDeadError
from taskflow_otel.model.cipher import seal_of
from taskflow_otel.model.options import whole
from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.runtime.owned_tasks import in_slices

_APPLIED = Applied(Outcome.APPLIED)
_STALE = Applied(Outcome.STALE)
_SLICE = 100
"""Changes applied, or tasks deleted, before others get the event loop."""
_LOOK = 1_000
"""Tasks read before others get the event loop."""
_TICK = timedelta(microseconds=1)
_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING


class MemoryBackend:
    """A backend in the memory of this process, with the semantics of the real ones.

    `max_finished` bounds the finished tasks: when another one ends, the oldest is dropped with its logs.
    `durable=True` claims durability, so that tests reach the code for persisted tasks without a database. Several
    managers of one process and one event loop may share an object; its content stays after `close()`.
    `namespace` is accepted as by the other backends, but has no effect: each object is a storage of its own.

    Raises `ConfigurationError` when `max_finished` is not a whole number of at least 0, or `namespace` not a name.
    """

    name = "memory"

    def __init__(self, max_finished: int = 10_000, *, durable: bool = False, namespace: str | None = None) -> None:
        if namespace is not None:
            check_namespace(namespace)
        self.durable = durable
        self._max_finished = whole("MemoryBackend.max_finished", max_finished, minimum=0)
        # In the order of `_position`; `_newest` is the last position, `_ordered` tells whether the order is right.
        self._tasks: dict[str, TaskRecord] = {}
        self._newest: tuple[datetime, str] | None = None
        self._ordered = True
        self._logs: dict[str, dict[int, LogEntry]] = {}
        self._keys: dict[str, str] = {}
        self._live: dict[str, dict[str, None]] = {}
        # An OrderedDict: finding the first entry of a plain dict gets slower with each entry removed at its front.
        self._finished: OrderedDict[str, None] = OrderedDict()
        # Oldest change first.
        self._changed: dict[str, datetime] = {}
        self._last_change = datetime.min.replace(tzinfo=UTC)
        self._instances: dict[str, Instance] = {}
        self._writing: Counter[str] = Counter[str]()
        """The instances of batches that are written in several slices: they cannot be declared dead before the last."""
        self._used_once: dict[str, str] = {}
        self._settings: dict[str, str] = {}
        self.audit_store: MemoryAuditStore = MemoryAuditStore()
        """What people did through the administration."""
        self.operation_store: MemoryOperationStore = MemoryOperationStore()
        """Bulk operations."""
        self.pool_store: MemoryPoolStore = MemoryPoolStore(lambda task_id: self._tasks.get(task_id), self._pass_on)
        """The tasks of shared queues that nobody owns yet."""
        self.figure_store: MemoryFigureStore = MemoryFigureStore()
        """What finished in each minute and hour."""
        self.failure_store: MemoryFailureStore = MemoryFailureStore(self._matching)
        """Groups of failures."""
        self.span_store: MemorySpanStore = MemorySpanStore()
        """The spans of attempts."""

    async def open(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to release."""

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all changes in order."""
        owners = owners_of(changes)
        for owner in owners:
            if (known := self._instances.get(owner)) is not None and known.state == InstanceState.DEAD:
                raise DeclaredDeadError(owner)
        if len(changes) <= _SLICE:
            return self._apply_all(changes)
        results: list[Applied] = []
        self._writing.update(owners)
        try:
            for start in range(0, len(changes), _SLICE):
                if start:
                    await asyncio.sleep(0)
                results += self._apply_all(changes[start : start + _SLICE])
        finally:
            self._writing.subtract(owners)
        return results

    async def get(self, task_id: str) -> TaskRecord | None:
        """One task without its logs, or `None`."""
        record = self._tasks.get(task_id)
        return None if record is None else _snapshot(record)

    async def get_all(self, task_ids: Collection[str]) -> dict[str, TaskRecord]:
        """Those of these tasks that are kept, by id."""
        return {task_id: _snapshot(self._tasks[task_id]) for task_id in task_ids if task_id in self._tasks}

    async def logs(self, task_id: str) -> list[LogEntry]:
        """The log of one task, in order."""
        entries = self._logs.get(task_id, {})
        return [entries[seq] for seq in sorted(entries)]

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page, newest first."""
        total = None if query.count_limit is None else len(await self._matching(query))
        found: list[TaskRecord] = []
        for number, record in enumerate(list(self._newest_first(query.cursor)), start=1):
            if _matches(record, query):
                if len(found) == query.limit:
                    return TaskPage(found, found[-1].task_id if found else query.cursor, total)
                found.append(_snapshot(record))
            if number % _LOOK == 0:
                # Not `in_slices`: what leaves it early would lose a cancellation.
                await asyncio.sleep(0)
        return TaskPage(found, None, total)

    async def counts(self, query: TaskQuery) -> TaskCounts:
        """Counts by status of the tasks that the query matches, and the run times of the finished ones."""
        matched = await self._matching(query)
        durations = [record.duration for record in matched if record.status.finished and record.duration is not None]
        return TaskCounts(dict(Counter(record.status for record in matched)), sum(durations), len(durations))

    async def holder_of(self, idempotency_key: str) -> str | None:
        """The id of the task that holds the key now."""
        return self._keys.get(idempotency_key)

    async def changed_since(self, moment: datetime, *, not_of: str, limit: int) -> list[TaskRecord]:
        """Tasks of other instances last written at or after `moment`, oldest change first."""
        recent: list[TaskRecord] = []
        for task_id, changed in reversed(self._changed.items()):
            if changed < moment:
                break
            record = self._tasks[task_id]
            if record.instance != not_of:
                recent.append(record)
        return [_snapshot(record) for record in recent[::-1][:limit]]

    async def request_cancel(self, task_id: str) -> bool:
        """Ask the owner of a live task to cancel it."""
        record = self._tasks.get(task_id)
        if record is None or record.status.finished:
            return False
        record.cancel_requested = True
        self._touch(task_id)
        return True

    async def cancel_requests(self, instance_id: str) -> list[str]:
        """Ids of the live tasks of this instance for which a cancellation was requested."""
        return [task_id for task_id in self._live.get(instance_id, ()) if self._tasks[task_id].cancel_requested]

    async def beat(self, instance: Instance) -> bool:
        """Write the instance's heartbeat; return `False` if it was declared dead."""
        known = self._instances.get(instance.instance_id)
        if known is not None and known.state == InstanceState.DEAD:
            return False
        self._instances[instance.instance_id] = instance
        return True

    async def instances(self) -> list[Instance]:
        """All known instances."""
        return list(self._instances.values())

    async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
        """Declare an instance dead if its heartbeat is still `seen_heartbeat`."""
        known = self._instances.get(instance_id)
        if known is None or known.state != InstanceState.ALIVE or known.heartbeat_at != seen_heartbeat:
            return False
        if self._writing[instance_id]:
            return False
        self._instances[instance_id] = dataclasses.replace(known, state=InstanceState.DEAD.value)
        return True

    async def take_over(
        self,
        dead: Collection[str],
        new_owner: str,
        names: Collection[str] | None,
        limit: int,
        seals: Collection[str] = (),
    ) -> list[TaskRecord]:
        """Take unfinished tasks of dead or stopped instances, oldest first."""
        orphans = [
            record
            for record in self._orphans(dead)
            if record.instance != new_owner
            and (
                names is None
                or not record.persisted
                or (record.func_name in names and not _sealed_beyond(record, seals))
            )
        ]
        taken = sorted(orphans, key=_position)[:limit]
        for record in taken:
            self._pass_on(record, new_owner)
        return [_snapshot(record) for record in taken]

    async def orphan_names(self, dead: Collection[str], beyond: Collection[str] | None = None) -> dict[str, int]:
        """Names and counts of the unfinished tasks of the instances in `dead`."""
        return dict(
            Counter(
                record.func_name
                for record in self._orphans(dead)
                if beyond is None or (record.persisted and _sealed_beyond(record, beyond))
            )
        )

    async def forget_instances(self, ids: Collection[str]) -> None:
        """Delete dead or stopped instances without unfinished tasks."""
        for instance_id in ids:
            known = self._instances.get(instance_id)
            if known is not None and known.state != InstanceState.ALIVE and instance_id not in self._live:
                del self._instances[instance_id]

    async def delete_finished(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` tasks that ended before this moment, with their logs."""
        ended = [
            (moment, task_id)
            async for task_id in in_slices(list(self._finished), _LOOK)
            if (record := self._tasks.get(task_id)) is not None and (moment := _ended(record)) < before
        ]
        deleted = 0
        for _, task_id in sorted(ended):
            if deleted == limit:
                break
            # Another call may have deleted it in the meantime.
            if task_id in self._finished:
                self._forget(task_id)
                deleted += 1
                if deleted % _SLICE == 0:
                    await asyncio.sleep(0)
        return deleted

    async def delete_tasks(self, task_ids: Collection[str]) -> list[str]:
        """Delete those of these tasks that have finished, with their logs."""
        deleted = [task_id for task_id in dict.fromkeys(task_ids) if task_id in self._finished]
        for task_id in deleted:
            self._forget(task_id)
        return deleted

    async def latest_once(self, prefix: str) -> tuple[str, str] | None:
        """The greatest name used once with this prefix, and the task that used it."""
        return max((pair for pair in self._used_once.items() if pair[0].startswith(prefix)), default=None)

    async def forget_once(self, prefix: str, before: str, limit: int) -> int:
        """Delete names used once that are less than `before`."""
        old = sorted(name for name in self._used_once if name.startswith(prefix) and name < before)[:limit]
        for name in old:
            del self._used_once[name]
        return len(old)

    async def settings(self, prefix: str) -> dict[str, str]:
        """The settings whose keys begin with `prefix`."""
        return {key: value for key, value in self._settings.items() if key.startswith(prefix)}

    async def put_setting(self, key: str, value: str | None) -> None:
        """Write or delete one setting."""
        if value is None:
            self._settings.pop(key, None)
        else:
            self._settings[key] = value

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        """Write several settings if the expected ones match."""
        if any(self._settings.get(key) != value for key, value in expected.items()):
            return False
        for key, value in changes.items():
            await self.put_setting(key, value)
        return True

    def _apply_all(self, changes: Sequence[Change]) -> list[Applied]:
        # One look at the clock: nobody sees the changes before the last of them is applied.
        self._last_change = max(SYSTEM_CLOCK.now(), self._last_change)
        results: list[Applied] = []
        for change in changes:
            if isinstance(change, Insert):
                results.append(self._insert(change))
            elif isinstance(change, Update):
                results.append(self._update(change.record))
            elif isinstance(change, AppendLogs):
                self._append(change)
                results.append(_APPLIED)
            elif isinstance(change, AppendSpans):
                known = self._tasks.get(change.task_id)
                if known is not None and (known.instance, known.token) == (change.instance, change.token):
                    self.span_store.add(change)
                results.append(_APPLIED)
            else:
                assert_never(change)
        return results

    def _append(self, lines: AppendLogs) -> None:
        if lines.task_id in self._tasks:
            log = self._logs.setdefault(lines.task_id, {})
            for entry in lines.entries:
                log.setdefault(entry.seq, entry)

    def _insert(self, change: Insert) -> Applied:
        record, once, link = change.record, change.once, change.link
        task_id = record.task_id
        if (known := self._tasks.get(task_id)) is not None:
            return _APPLIED if (known.instance, known.token) == (record.instance, record.token) else _STALE
        if once is not None and (user := self._used_once.get(once, task_id)) != task_id:
            return Applied(Outcome.DUPLICATE, user)
        original = None if link is None else self._tasks.get(record.retry_of or "")
        if link is not None and original is not None and original.retried_by not in (None, link.seen, task_id):
            return Applied(Outcome.DUPLICATE, original.retried_by)
        key = record.active_key if record.idempotency_key is not None else None
        if key is not None and (holder := self._keys.setdefault(key, task_id)) != task_id:
            return Applied(Outcome.DUPLICATE, holder)
        if once is not None:
            self._used_once[once] = task_id
        if original is not None:
            original.retried_by = task_id
            self._touch(original.task_id)
        position, newest = (record.created_at, task_id), self._newest
        if newest is None or position > newest:
            self._newest = position
        else:
            self._ordered = False
        # History needs no copy: only its link to a retry changes.
        live = record.status is _PENDING or record.status is _RUNNING
        stored = self._tasks[task_id] = _snapshot(record) if live else record
        self._settle(stored, new=True)
        return _APPLIED

    def _update(self, record: TaskRecord) -> Applied:
        known = self._tasks.get(record.task_id)
        if known is None or (known.instance, known.token) != (record.instance, record.token):
            return _STALE
        if known.status.finished:
            return _APPLIED
        fresh = _snapshot(record)
        fresh.retried_by, fresh.cancel_requested = known.retried_by, known.cancel_requested
        if (key := known.active_key) is not None and fresh.active_key is None and self._keys.get(key) == known.task_id:
            del self._keys[key]
        self._tasks[record.task_id] = fresh
        self._settle(fresh)
        return _APPLIED

    def _settle(self, record: TaskRecord, *, new: bool = False) -> None:
        task_id, status = record.task_id, record.status
        # `_touch` without the call and the clock, which `_apply_all` has read.
        self._last_change += _TICK
        if not new:
            self._changed.pop(task_id, None)
        self._changed[task_id] = self._last_change
        if status is _PENDING or status is _RUNNING:
            self._live.setdefault(record.instance, {})[task_id] = None
            return
        if not new:
            self._disown(record)
        self.figure_store.add(record)
        self._finished[task_id] = None
        if len(self._finished) > self._max_finished:
            self._forget(self._finished.popitem(last=False)[0])

    def _touch(self, task_id: str) -> None:
        # Strictly increasing, so that the dictionary is ordered by its values.
        self._last_change = max(SYSTEM_CLOCK.now(), self._last_change + _TICK)
        self._changed.pop(task_id, None)
        self._changed[task_id] = self._last_change

    def _pass_on(self, record: TaskRecord, owner: str) -> TaskRecord:
        self._disown(record)
        record.instance = owner
        record.token += 1
        self._live.setdefault(owner, {})[record.task_id] = None
        self._touch(record.task_id)
        return _snapshot(record)

    def _disown(self, record: TaskRecord) -> None:
        if (owned := self._live.get(record.instance)) is not None:
            owned.pop(record.task_id, None)
            if not owned:
                del self._live[record.instance]

    def _forget(self, task_id: str) -> None:
        record = self._tasks.pop(task_id)
        self._finished.pop(task_id, None)
        if (key := record.idempotency_key) is not None and self._keys.get(key) == task_id:
            del self._keys[key]
        del self._changed[task_id]
        if self._logs:
            self._logs.pop(task_id, None)
        self.span_store.forget(task_id)

    def _orphans(self, dead: Collection[str]) -> Iterator[TaskRecord]:
        for instance_id in dead:
            for task_id in self._live.get(instance_id, ()):
                yield self._tasks[task_id]

    async def _matching(self, query: TaskQuery) -> list[TaskRecord]:
        matched: list[TaskRecord] = []
        for number, record in enumerate(list(self._tasks.values()), start=1):
            if _matches(record, query):
                matched.append(record)
            if number % _LOOK == 0:
                await asyncio.sleep(0)
        return matched

    def _newest_first(self, cursor: str | None) -> Iterator[TaskRecord]:
        if not self._ordered:
            self._tasks = {record.task_id: record for record in sorted(self._tasks.values(), key=_position)}
            self._ordered = True
        walk = reversed(self._tasks.values())
        if cursor is None:
            return walk
        last = self._tasks.get(cursor)
        if last is None:
            return (record for record in walk if record.task_id < cursor)
        position = _position(last)
        return (record for record in walk if _position(record) < position)


def _position(record: TaskRecord) -> tuple[datetime, str]:
    return record.created_at, record.task_id


def _sealed_beyond(record: TaskRecord, seals: Collection[str]) -> bool:
    seal = seal_of(record.payload)
    return seal is not None and seal not in seals


def _ended(record: TaskRecord) -> datetime:
    return record.end_time or record.created_at


def _snapshot(record: TaskRecord) -> TaskRecord:
    twin = record.copy()
    if record.status is not _PENDING and record.status is not _RUNNING:
        # No one writes its references any more.
        return twin
    trace = twin.trace
    # The references are written in place, but only by their owner.
    trace.creation = replace(trace.creation)
    if trace.attempt is not None:
        trace.attempt = replace(trace.attempt)
    if trace.previous is not None:
        trace.previous = replace(trace.previous)
    return twin


def _matches(record: TaskRecord, query: TaskQuery) -> bool:
    if query.tag is not None:
        key, value = query.tag
        if key not in record.tags or (value is not None and record.tags[key] != value):
            return False
    return (
        (query.status is None or record.status is query.status)
        and (query.func_name is None or record.func_name == query.func_name)
        and (query.queue is None or record.queue == query.queue)
        and (query.source is None or record.source == query.source)
        and (query.since is None or record.created_at >= query.since)
        and (query.until is None or record.created_at < query.until)
        and (query.trace_id is None or record.trace_id == query.trace_id)
        and (query.fingerprint is None or record.fingerprint == query.fingerprint)
        and (query.ended_since is None or (record.status.finished and _ended(record) >= query.ended_since))
        and (query.ended_until is None or (record.status.finished and _ended(record) < query.ended_until))
        and (query.q is None or _mentions((record.func_name, record.error, record.task_id), query.q))
        and (query.error is None or _mentions((record.error_type, record.error), query.error))
        and (query.func_name_prefix is None or record.func_name.lower().startswith(query.func_name_prefix.lower()))
        and (query.min_duration is None or _ran(record) >= query.min_duration)
        and (query.max_duration is None or 0 <= _ran(record) < query.max_duration)
    )


def _mentions(parts: Iterable[str | None], text: str) -> bool:
    return any(text.lower() in part.lower() for part in parts if part is not None)


def _ran(record: TaskRecord) -> float:
    """The run time of a finished task; of others, a negative number."""
    return -1.0 if record.duration is None or not record.status.finished else record.duration
