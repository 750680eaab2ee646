"""The numbers at the top of the page, from the ledger, so that they cover the whole fleet."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from taskflow_otel.model.query import TaskCounts, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import LIVE_STATUSES, TaskStatus, Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.bodies import OverviewOut, PointOut

WINDOWS = {"15m": 900.0, "1h": 3_600.0, "6h": 21_600.0, "24h": 86_400.0}
_BUCKETS = 30
_SAMPLE = 200
_FRESH = 1.0
_TRUSTED = 300.0  # settled counts change when history is deleted


class Overview:
    """Reads the numbers; simultaneous viewers share one reading.

    A time range without pending or running tasks does not change any more, so a refresh reads only the other ranges.
    """

    def __init__(self, engine: TaskEngine, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._clock = clock
        self._trusted_until = clock.monotonic() + _TRUSTED
        self._settled: dict[tuple[float, int], TaskCounts] = {}
        self._read: dict[str, tuple[float, OverviewOut]] = {}
        self._lock = asyncio.Lock()

    async def read(self, window: str) -> OverviewOut:
        """The numbers of one of `WINDOWS`, at most a second old."""
        async with self._lock:
            known = self._read.get(window)
            if known is None or self._clock.monotonic() - known[0] > _FRESH:
                known = self._clock.monotonic(), await self._measure(WINDOWS[window])
                self._read[window] = known
            return known[1]

    async def _measure(self, seconds: float) -> OverviewOut:
        now = self._clock.now()
        if self._clock.monotonic() > self._trusted_until:
            self._settled.clear()
            self._trusted_until = self._clock.monotonic() + _TRUSTED
        width = seconds / _BUCKETS
        last = int(now.timestamp() // width)
        indexes = range(last - _BUCKETS + 1, last + 1)
        stretches = [await self._stretch(width, index, now) for index in indexes]
        self._settled = {key: counts for key, counts in self._settled.items() if key[0] != width or key[1] in indexes}
        running = await self._engine.lookup.counts(TaskQuery(status=TaskStatus.RUNNING))
        pending = await self._engine.lookup.counts(TaskQuery(status=TaskStatus.PENDING))
        latest = await self._engine.lookup.page(TaskQuery(since=now - timedelta(seconds=seconds), limit=_SAMPLE))
        sample = [record for record in latest.records if record.status.finished and record.duration is not None]
        success, failed = (_sum(stretches, status) for status in (TaskStatus.SUCCESS, TaskStatus.FAILED))
        # The rate of a service that has just started must not include the time before its start.
        began = next((index for index, counts in zip(indexes, stretches, strict=True) if counts.total), last)
        covered = max(1.0, now.timestamp() - began * width)
        ages = [stats.oldest_ready_age for stats in self._engine.queues.stats().values() if stats.ready]
        return OverviewOut(
            window_seconds=seconds,
            bucket_seconds=width,
            created_per_minute=sum(counts.total for counts in stretches) / covered * 60.0,
            failure_share=failed / (success + failed) if success + failed else None,
            running=running.total,
            pending=pending.total,
            run_p95_seconds=percentile([record.duration or 0.0 for record in sample], 0.95),
            wait_p95_seconds=percentile([wait for record in sample if (wait := first_wait(record)) is not None], 0.95),
            sample=len(sample),
            oldest_ready_age_seconds=max((age for age in ages if age is not None), default=None),
            points=[
                _point(datetime.fromtimestamp(index * width, UTC), counts)
                for index, counts in zip(indexes, stretches, strict=True)
            ],
        )

    async def _stretch(self, width: float, index: int, now: datetime) -> TaskCounts:
        known = self._settled.get((width, index))
        if known is not None:
            return known
        since, until = (datetime.fromtimestamp(edge * width, UTC) for edge in (index, index + 1))
        counts = await self._engine.lookup.counts(TaskQuery(since=since, until=until))
        # Tasks of other instances reach the ledger a moment after their creation.
        if until + timedelta(seconds=5) < now and not _sum([counts], *LIVE_STATUSES):
            self._settled[width, index] = counts
        return counts


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); `None` without values."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


def first_wait(record: TaskRecord) -> float | None:
    """Seconds from enqueue to the first start; `None` if it never started or was delayed on purpose."""
    if any(entry.transition is Transition.ENQUEUED and entry.reason == Reason.DELAYED for entry in record.timeline):
        return None
    for entry in record.timeline:
        if entry.transition is Transition.STARTED:
            return max(0.0, (entry.timestamp - record.created_at).total_seconds())
    return None


def _sum(stretches: Sequence[TaskCounts], *statuses: TaskStatus) -> int:
    return sum(counts.by_status.get(status, 0) for counts in stretches for status in statuses)


def _point(at: datetime, counts: TaskCounts) -> PointOut:
    success, failed, live = (
        _sum([counts], *statuses) for statuses in ((TaskStatus.SUCCESS,), (TaskStatus.FAILED,), tuple(LIVE_STATUSES))
    )
    return PointOut(at=at, success=success, failed=failed, live=live, other=counts.total - success - failed - live)
