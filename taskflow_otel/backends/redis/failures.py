"""Groups of failures in Redis; the script `apply` keeps their tasks in sorted sets by the times of their ends."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from taskflow_otel.backends.failures import GroupCount, Occurrences, grouped
from taskflow_otel.backends.redis import codec
from taskflow_otel.backends.redis.fields import dimensions, failed_fields
from taskflow_otel.backends.redis.search import Searcher
from taskflow_otel.backends.redis.texts import from_micros, to_json, to_micros
from taskflow_otel.model.failure import fingerprint_of, summary_of
from taskflow_otel.model.query import FailureGroup, FailureGroups, TaskQuery, Trend
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.owned_tasks import in_slices

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection

READ_LIMIT = 10_000
"""The most tasks of each state that are read for groups of a query with conditions."""
_PAGE = 500
_TOLD_AT_ONCE = 200
_GROUPS_AT_ONCE = 100
_WENT_WRONG = (TaskStatus.FAILED, TaskStatus.INTERRUPTED, TaskStatus.REJECTED)
_PAGING = {"limit", "cursor", "count_limit"}
_CONDITIONS = [field.name for field in fields(TaskQuery) if field.name not in _PAGING]


class RedisFailureStore:
    """See `FailureStore`. With a condition, groups are those of the newest `READ_LIMIT` tasks of each state."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection

    async def groups(self, query: TaskQuery, trend: Trend) -> FailureGroups:
        """See `FailureStore`."""
        if any(getattr(query, name) is not None for name in _CONDITIONS):
            return await self._counted(query, trend)
        times = str(to_micros(trend.recent)), str(to_micros(trend.before))
        found: dict[str, FailureGroup] = {}
        cursor = ""
        while cursor != "0":
            cursor, rows = await self._connection().read("failures_groups", cursor or "0", *times)
            for fingerprint, total, not_retried, waiting, first, last, recent, before, newest in rows:
                found[fingerprint] = FailureGroup(
                    fingerprint=fingerprint,
                    total=total,
                    open=not_retried,
                    waiting=waiting,
                    first_at=from_micros(int(first)),
                    last_at=from_micros(int(last)),
                    recent=recent,
                    before=before,
                    newest=newest,
                )
        return FailureGroups(list(found.values()))

    async def _counted(self, query: TaskQuery, trend: Trend) -> FailureGroups:
        counts: dict[str, GroupCount] = {}
        exact = True
        for status in (*_WENT_WRONG, TaskStatus.PENDING):
            if query.status not in (None, status):
                continue
            wanted, read = replace(query, status=status, limit=_PAGE, cursor=None, count_limit=None), 0
            while True:
                page = await Searcher(self._connection(), wanted).page()
                read += len(page.records)
                async for record in in_slices(page.records, _PAGE):
                    grouped((record,), trend, counts)
                if page.next_cursor is None:
                    break
                if read >= READ_LIMIT:
                    exact = False
                    break
                wanted = replace(wanted, cursor=page.next_cursor)
        groups = [count.result() for count in counts.values()]
        return FailureGroups([group for group in groups if group.total], exact)

    async def occurrences(self, fingerprints: Collection[str], first: int, last: int, seconds: int) -> Occurrences:
        """See `FailureStore`."""
        found: Occurrences = {}
        wanted, first = sorted(fingerprints), first // seconds * seconds
        for start in range(0, len(wanted), _GROUPS_AT_ONCE):
            some = wanted[start : start + _GROUPS_AT_ONCE]
            rows = await self._connection().read("failures_slots", str(first), str(last), str(seconds), *some)
            for fingerprint, slot, number in rows:
                found.setdefault(fingerprint, {})[slot] = number
        return found


async def tell_failures(link: Connection) -> None:
    """Migrate tasks that went wrong under version 1 of the schema: give them their fingerprints."""
    for status in _WENT_WRONG:
        position = 0
        while rows := await link.read("failures_untold", status.value, str(position), str(_TOLD_AT_ONCE)):
            position += len(rows)
            told: list[list[str]] = []
            async for row in in_slices(rows, _TOLD_AT_ONCE):
                record = codec.load_record(row)
                if record.failures:
                    continue
                texts: dict[str, Any] = {
                    "error_type": record.error_type,
                    "error": record.error,
                    "stacktrace": record.stacktrace,
                }
                kind = fingerprint_of(record.func_name, status, reason=record.reason, **texts)
                record.failures = (summary_of(record.attempt, kind, **texts),)
                fingerprint, failures = failed_fields(record)
                dims = to_json(dimensions(record))
                told.append([record.task_id, status.value, dims, str(fingerprint), str(failures)])
            if told:
                await link.write("failures_tell", to_json(told))
    await link.write("failures_told")
