"""The numbers at the top of the page, from the ledger, so that they cover the whole fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from taskflow_otel.model.figures import STATUSES, WAIT, Distribution, Figure, Span, moment_of
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.figures import WindowFigures
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.figures import OverviewOut, PointOut

_FRESH = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """A time range until now, and the width of a point of its chart; both in seconds."""

    seconds: int
    width: int


WINDOWS = {
    "15m": Window(900, 60),
    "1h": Window(3_600, 120),
    "6h": Window(21_600, 600),
    "24h": Window(86_400, 3_600),
}
_SUCCESS, _FAILED = TaskStatus.SUCCESS.value, TaskStatus.FAILED.value


class Overview:
    """Reads the numbers; simultaneous viewers share one reading.

    The figures of a minute that ended some time ago do not change any more, so a refresh reads only the newest ones.
    """

    def __init__(self, engine: TaskEngine, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._clock = clock
        self._figures = {name: WindowFigures(engine, clock, window.width) for name, window in WINDOWS.items()}
        self._read: dict[str, tuple[float, OverviewOut]] = {}
        self._lock = asyncio.Lock()

    async def read(self, window: str) -> OverviewOut:
        """The numbers of one of `WINDOWS`, at most a second old."""
        # All who have waited for a slow reading share the next one.
        asked = self._clock.monotonic()
        async with self._lock:
            known = self._read.get(window)
            if known is None or asked - known[0] > _FRESH:
                known = self._clock.monotonic(), await self._measure(window)
                self._read[window] = known
            return known[1]

    async def _measure(self, name: str) -> OverviewOut:
        window, now = WINDOWS[name], self._clock.now()
        since = Span.MINUTE.slot(now - timedelta(seconds=window.seconds))
        figures = await self._figures[name].read(since, now)
        running = await self._engine.lookup.counts(TaskQuery(status=TaskStatus.RUNNING))
        pending = await self._engine.lookup.counts(TaskQuery(status=TaskStatus.PENDING))
        runs, waits = Distribution(), Distribution()
        by_status: dict[str, int] = {}
        for figure in figures or ():
            if figure.kind == WAIT:
                waits.add(figure)
            elif figure.kind in STATUSES:
                runs.add(figure)
                by_status[figure.kind] = by_status.get(figure.kind, 0) + figure.tasks
        success, failed, finished = by_status.get(_SUCCESS, 0), by_status.get(_FAILED, 0), sum(by_status.values())
        began = await self._began(figures or (), since)
        said = (await self._engine.board.read()).values()
        since_ready = [load.ready_since for one in said for load in one.queues.values() if load.ready]
        ages = [max(0.0, (now - moment).total_seconds()) for moment in since_ready if moment is not None]
        pool = self._engine.pool
        if pool is not None:
            ages += [load.oldest_age for load in pool.loads() if load.oldest_age]
        kept = figures is not None
        return OverviewOut(
            window_seconds=window.seconds,
            since=moment_of(since),
            until=now,
            bucket_seconds=window.width,
            finished=finished if kept else None,
            finished_per_minute=finished / max(1.0, now.timestamp() - began) * 60.0 if kept else None,
            failure_share=failed / (success + failed) if success + failed else None,
            running=running.total,
            pending=pending.total,
            run_p50_seconds=runs.percentile(0.5),
            run_p95_seconds=runs.percentile(0.95),
            wait_p50_seconds=waits.percentile(0.5),
            wait_p95_seconds=waits.percentile(0.95),
            oldest_ready_age_seconds=max(ages, default=None),
            unclaimed_queues=[] if pool is None else pool.unclaimed(),
            points=points_of(figures or (), window.width, since, int(now.timestamp())),
        )

    async def _began(self, figures: Iterable[Figure], since: int) -> float:
        """When the time began that the rate is about: not before the start of a service that has just started."""
        first = min((figure.slot for figure in figures), default=since)
        if first <= since:
            return since
        starts = [instance.started_at.timestamp() for instance in await self._engine.lookup.instances()]
        return max(first, min((start for start in starts if start < first + Span.MINUTE.seconds), default=first))


def points_of(figures: Iterable[Figure], width: int, since: int, until: int) -> list[PointOut]:
    """The outcomes in each part of a window; a part begins at a multiple of `width` seconds."""
    sums: dict[int, dict[str, int]] = {}
    for figure in figures:
        if figure.kind in STATUSES:
            kinds = sums.setdefault(figure.slot // width, {})
            kinds[figure.kind] = kinds.get(figure.kind, 0) + figure.tasks
    return [_point(index * width, sums.get(index, {})) for index in range(since // width, until // width + 1)]


def _point(at: int, kinds: Mapping[str, int]) -> PointOut:
    success, failed = kinds.get(_SUCCESS, 0), kinds.get(_FAILED, 0)
    return PointOut(at=moment_of(at), success=success, failed=failed, other=sum(kinds.values()) - success - failed)
