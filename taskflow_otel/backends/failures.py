"""Groups of failures: an optional part of a backend."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Protocol, runtime_checkable

from taskflow_otel.model.query import FailureGroup, FailureGroups, TaskQuery, Trend
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus

Occurrences = dict[str, dict[int, int]]
"""By fingerprint: how many tasks ended in each slot; a slot is named by its beginning, in seconds since 1970."""


class FailureStore(Protocol):
    """Counts tasks by the fingerprint of their latest failure. The errors are those of a `Backend`."""

    async def groups(self, query: TaskQuery, trend: Trend) -> FailureGroups:
        """The groups of the tasks that the query matches and that have ended; its `limit` and `cursor` are ignored.

        The numbers are those of all stored tasks. A backend that would have to read many tasks for the conditions of
        the query may count only the newest, and says so.
        """

    async def occurrences(self, fingerprints: Collection[str], first: int, last: int, seconds: int) -> Occurrences:
        """How many tasks of these groups ended in each slot of this length, from the slot `first` to `last`.

        Slots begin at multiples of `seconds`; those without a task are left out.
        """


@runtime_checkable
class KeepsFailures(Protocol):
    """A backend that counts groups of failures."""

    @property
    def failure_store(self) -> FailureStore:
        """The store; it works while the backend is open."""


class GroupCount:
    """Counts one group, task by task."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._total = self._open = self._waiting = self._recent = self._before = 0
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._newest = ""

    def add(self, record: TaskRecord, trend: Trend) -> None:
        """Count a task."""
        if not record.status.finished:
            self._waiting += record.status is TaskStatus.PENDING
            return
        ended = record.end_time or record.created_at
        self._newest = max(self._newest, record.task_id)
        self._total += 1
        self._open += record.retried_by is None
        self._recent += ended >= trend.recent
        self._before += trend.before <= ended < trend.recent
        self._first = ended if self._first is None else min(self._first, ended)
        self._last = ended if self._last is None else max(self._last, ended)

    def result(self) -> FailureGroup:
        """The group."""
        return FailureGroup(
            fingerprint=self._fingerprint,
            total=self._total,
            open=self._open,
            waiting=self._waiting,
            first_at=self._first,
            last_at=self._last,
            recent=self._recent,
            before=self._before,
            newest=self._newest,
        )


def grouped(records: Iterable[TaskRecord], trend: Trend, counts: dict[str, GroupCount]) -> None:
    """Add these tasks to the counts of their groups."""
    for record in records:
        if (fingerprint := record.fingerprint) is not None:
            if (count := counts.get(fingerprint)) is None:
                count = counts[fingerprint] = GroupCount(fingerprint)
            count.add(record, trend)
