"""The figures of finished tasks: how many of each type ended in each minute, and how long they ran and waited.

Run times and waits are counted in buckets. The limits of a bucket differ by the factor 2^(1/8), and each bucket also
has the sum of its values, so a percentile is the mean of the values of one bucket: it is off by less than 9 percent,
and exact where these values are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec import Struct

from taskflow_otel.model.objective import verdict
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import FINISHED_STATUSES, TaskStatus, Transition
from taskflow_otel.model.vocabulary import Reason

WAIT = "wait"
"""The kind of a wait. The kind of a run time is the status in which the task ended."""
STATUSES = frozenset(status.value for status in FINISHED_STATUSES)
"""The kinds that say in which status tasks ended: each task has one of them."""
STATUS_WORDS = {status: status.value for status in FINISHED_STATUSES}
"""The same, by status: the `value` of an enum member costs as much as several calls."""
RETRIED = "retried"
"""The kind of tasks that had further attempts after a failed one. Their bucket is the number of these attempts."""
UNTIMED = -1
"""The bucket of tasks without a run time: cancelled before their start, rejected, or lost with their process."""

_log2 = math.log2
_PER_DOUBLING = 8
_LOWEST = 1e-4
"""Seconds; the bucket 0 has everything below."""
_HIGHEST = 300
"""The last bucket: 173 days and more."""
_STARTED, _ENQUEUED = Transition.STARTED, Transition.ENQUEUED
_DELAYED = Reason.DELAYED.value


class Span(StrEnum):
    """The lengths of time for which figures are added up."""

    MINUTE = "minute"
    HOUR = "hour"

    @property
    def seconds(self) -> int:
        """Its length."""
        return _SECONDS[self]

    def slot(self, moment: datetime) -> int:
        """The beginning of the span that has this moment, in seconds since 1970."""
        return int(moment.timestamp()) // self.seconds * self.seconds


_MINUTE = timedelta(minutes=1)
_MOST_FRESH = 500
"""Tasks that are collected before they are added up: a millisecond of work."""
_NEVER = datetime.min.replace(tzinfo=UTC)
_SECONDS = {Span.MINUTE: 60, Span.HOUR: 3_600}
KEPT = {Span.MINUTE: timedelta(hours=26), Span.HOUR: timedelta(days=35)}
"""How long figures are kept."""


def bucket_of(seconds: float) -> int:
    """The bucket of a run time or a wait."""
    if seconds < _LOWEST:
        return 0
    return min(_HIGHEST, 1 + int(_PER_DOUBLING * _log2(seconds / _LOWEST)))


def band_of(bucket: int) -> int:
    """The band of a bucket: the buckets of run times of which the longest is twice the shortest, together."""
    return -(-bucket // _PER_DOUBLING)


def band_limit(band: int) -> float:
    """The seconds with which a band begins; the first one begins with 0."""
    return _LOWEST * 2.0 ** (band - 1) if band else 0.0


class Figure(Struct, frozen=True, gc=False):
    """The tasks of one type in one slot that ended in one way, and whose times are in one bucket."""

    slot: int
    """See `Span.slot`."""
    func_name: str
    """Empty if the figures of all types are added up."""
    kind: str
    """A `TaskStatus` in which tasks end, `WAIT`, `RETRIED`, or an `ObjectiveResult`."""
    bucket: int
    tasks: int
    micros: int
    """The sum of the times, in microseconds."""


def first_wait(record: TaskRecord) -> float | None:
    """Seconds from enqueueing to the first start, without a delay that was asked for.

    `None` if the task never started, or if its delay is not known any more because it was retried.
    """
    wanted, timeline = record.created_at, record.timeline
    # Most tasks start once, without a delay.
    if len(timeline) > 1 and timeline[1].transition is _STARTED and timeline[0].reason is None:
        return max(0.0, (timeline[1].timestamp - wanted).total_seconds())
    for entry in timeline:
        if entry.transition is _ENQUEUED and entry.reason == _DELAYED:
            if record.attempt or record.run_at is None:
                return None
            wanted = max(wanted, record.run_at)
        elif entry.transition is _STARTED:
            return max(0.0, (entry.timestamp - wanted).total_seconds())
    return None


def figures_of(record: TaskRecord) -> list[tuple[str, int, int]]:
    """Kind, bucket and microseconds of what a task adds to the figures: nothing unless it is finished."""
    status = record.status
    if not status.finished:
        return []
    word, took = STATUS_WORDS[status], record.duration
    wait = first_wait(record)
    found = [(word, UNTIMED, 0) if took is None else (word, bucket_of(took), int(took * 1e6 + 0.5))]
    if wait is not None:
        found.append((WAIT, bucket_of(wait), int(wait * 1e6 + 0.5)))
    if record.retries_used:
        found.append((RETRIED, record.retries_used, 0))
    timeline = record.timeline
    if timeline and timeline[0].due_at is not None and (result := verdict(timeline)) is not None:
        found.append((result.value, UNTIMED, 0))
    return found


class FigureTally:
    """Adds up the figures of many tasks.

    Tasks are only collected at first: to add up many in one loop takes a third of the time of each one by itself.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str, str, int], list[int]] = {}
        """Tasks and microseconds by minute, name, kind and bucket."""
        self._fresh: list[TaskRecord] = []
        """Finished tasks that are not in the sums yet."""

    def add(self, record: TaskRecord) -> None:
        """Add a finished task: from now on, nothing that the figures show may change in its record."""
        fresh = self._fresh
        fresh.append(record)
        if len(fresh) >= _MOST_FRESH:
            self._settle()

    def _settle(self) -> None:
        """Add the collected tasks to the sums."""
        fresh, self._fresh = self._fresh, []
        minute, since, until = 0, _NEVER, _NEVER
        name, status = "", TaskStatus.PENDING
        runs: dict[int, list[int]] = {}
        waits: dict[int, list[int]] = {}
        for record in fresh:
            ended = record.end_time or record.created_at
            # The tasks of a batch end in the same minute, and most of them are of one type and end well.
            if not since <= ended < until:
                minute = Span.MINUTE.slot(ended)
                since = moment_of(minute)
                until = since + _MINUTE
                status = TaskStatus.PENDING
            if record.func_name != name or record.status is not status:
                name, status = record.func_name, record.status
                runs, waits = {}, {}
            took, timeline = record.duration, record.timeline
            if took is None or record.retries_used or len(timeline) < 2 or timeline[0].due_at is not None:
                for kind, bucket, micros in figures_of(record):
                    _count(self._sums, (minute, name, kind, bucket), micros)
                continue
            # `figures_of` without its calls and tuples, for a task that ran and has no objective.
            bucket = 0 if took < _LOWEST else bucket_of(took)
            kept = runs.get(bucket)
            if kept is None:
                kept = runs[bucket] = self._sums.setdefault((minute, name, STATUS_WORDS[status], bucket), [0, 0])
            kept[0] += 1
            kept[1] += int(took * 1e6 + 0.5)
            if timeline[1].transition is _STARTED and timeline[0].reason is None:
                wait: float | None = (timeline[1].timestamp - record.created_at).total_seconds()
            else:
                wait = first_wait(record)
            if wait is not None:
                if wait < _LOWEST:
                    wait, bucket = (max(0.0, wait)), 0
                else:
                    bucket = bucket_of(wait)
                kept = waits.get(bucket)
                if kept is None:
                    kept = waits[bucket] = self._sums.setdefault((minute, name, WAIT, bucket), [0, 0])
                kept[0] += 1
                kept[1] += int(wait * 1e6 + 0.5)

    def merge(self, other: FigureTally) -> None:
        """Add the figures of another tally."""
        other._settle()
        for key, (tasks, micros) in other._sums.items():
            _count(self._sums, key, micros, tasks)

    def figures(self, span: Span) -> Iterator[Figure]:
        """The sums of each slot of this length, in order."""
        self._settle()
        sums = self._sums
        if span is not Span.MINUTE:
            sums = {}
            longer = span.seconds
            for (minute, name, kind, bucket), (tasks, micros) in self._sums.items():
                _count(sums, (minute // longer * longer, name, kind, bucket), micros, tasks)
        for key in sorted(sums):
            yield Figure(*key, *sums[key])


def _count(
    sums: dict[tuple[int, str, str, int], list[int]], key: tuple[int, str, str, int], micros: int, tasks: int = 1
) -> None:
    kept = sums.setdefault(key, [0, 0])
    kept[0] += tasks
    kept[1] += micros


class Distribution:
    """Run times or waits, added up by buckets."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[int]] = {}
        self.count: int = 0
        """How many values there are."""

    def add(self, figure: Figure) -> None:
        """Add values; those without a time are no values."""
        if figure.bucket == UNTIMED:
            return
        kept = self._buckets.setdefault(figure.bucket, [0, 0])
        kept[0] += figure.tasks
        kept[1] += figure.micros
        self.count += figure.tasks

    @property
    def seconds(self) -> float:
        """The sum of the values."""
        return sum(micros for _, micros in self._buckets.values()) / 1e6

    def from_top(self, number: int) -> tuple[int, int]:
        """The bucket that has the `number`-th greatest value (0 if there are fewer), and how many have that or more."""
        count = 0
        for bucket in sorted(self._buckets, reverse=True):
            count += self._buckets[bucket][0]
            if count >= number:
                return bucket, count
        return 0, count

    def percentile(self, share: float) -> float | None:
        """The seconds that at least `share` of the values do not exceed (nearest rank); `None` without values."""
        rank = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            tasks, micros = self._buckets[bucket]
            rank -= tasks
            if rank <= 0:
                return micros / tasks / 1e6
        return None


def moment_of(slot: int) -> datetime:
    """The beginning of a slot."""
    return datetime.fromtimestamp(slot, UTC)
