"""Groups of failures in a SQL database: one statement over the index by fingerprint."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, case, func, literal_column, select

from taskflow_otel.backends.failures import Occurrences
from taskflow_otel.backends.sql.audit import Read
from taskflow_otel.backends.sql.mapping import MICROS, micros, moment
from taskflow_otel.backends.sql.queries import chunks, conditions
from taskflow_otel.backends.sql.schema import tasks
from taskflow_otel.model.query import FailureGroup, FailureGroups, TaskQuery, Trend
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.owned_tasks import in_slices

_AT_ONCE = 1_000
_HINT = "FORCE INDEX (taskflow_tasks_by_fingerprint)"


class SqlFailureStore:
    """See `FailureStore`."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def groups(self, query: TaskQuery, trend: Trend) -> FailureGroups:
        """See `FailureStore`."""
        rows = await self._read(groups_statement(query, trend))
        return FailureGroups([_group(row) async for row in in_slices(rows, _AT_ONCE)])

    async def occurrences(self, fingerprints: Collection[str], first: int, last: int, seconds: int) -> Occurrences:
        """See `FailureStore`."""
        found: Occurrences = {}
        for chunk in chunks(sorted(fingerprints)):
            rows = await self._read(occurrences_statement(chunk, first, last, seconds))
            for fingerprint, slot, number in rows:
                found.setdefault(fingerprint, {})[int(slot) * seconds] = int(number)
        return found


def groups_statement(query: TaskQuery, trend: Trend) -> Select[Any]:
    """One row for each group."""
    c = tasks.c
    ended, recent, before = c.finished_at.is_not(None), micros(trend.recent), micros(trend.before)

    def number(*conditions: Any) -> Any:
        return func.sum(case((conditions[0] if len(conditions) == 1 else conditions[0] & conditions[1], 1), else_=0))

    statement = select(
        c.fingerprint,
        func.count(c.finished_at),
        number(ended, c.retried_by.is_(None)),
        number(c.finished_at.is_(None), c.status == TaskStatus.PENDING.value),
        func.min(c.finished_at),
        func.max(c.finished_at),
        number(c.finished_at >= recent),
        number(c.finished_at >= before, c.finished_at < recent),
        func.max(case((ended, c.task_id))),
    ).where(c.fingerprint.is_not(None), *conditions(query))
    return statement.group_by(c.fingerprint).having(func.count(c.finished_at) > 0).with_hint(tasks, _HINT, "mysql")


def occurrences_statement(fingerprints: Collection[str], first: int, last: int, seconds: int) -> Select[Any]:
    """One row for each slot of a group that has a task."""
    c = tasks.c
    # Not a parameter: a database could not know that two of them are the same.
    slot = (c.finished_at // literal_column(str(seconds * 1_000_000), MICROS)).label("slot")
    return (
        select(c.fingerprint, slot, func.count())
        .where(
            c.fingerprint.in_(fingerprints),
            c.finished_at >= first * 1_000_000,
            c.finished_at < (last + seconds) * 1_000_000,
        )
        .group_by(c.fingerprint, slot)
        .with_hint(tasks, _HINT, "mysql")
    )


def _group(row: Any) -> FailureGroup:
    fingerprint, total, not_retried, waiting, first, last, recent, before, newest = row
    return FailureGroup(
        fingerprint=fingerprint,
        total=int(total),
        open=int(not_retried),
        waiting=int(waiting),
        first_at=None if first is None else moment(first),
        last_at=None if last is None else moment(last),
        recent=int(recent),
        before=int(before),
        newest=newest,
    )
