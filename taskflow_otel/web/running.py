"""The tasks that run now, the longest first, beside what is usual for their types."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from taskflow_otel.model.figures import Distribution, Span
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.params import COUNT_LIMIT, MAX_PAGE
from taskflow_otel.web.ports import TaskEngine

_FRESH = 1.0
_USUAL_FRESH = 60.0
_ENOUGH = 20
"""Successes from which a percentile says what is usual."""
_WINDOW = timedelta(hours=24)


class RunningNow(NamedTuple):
    """The running tasks, those that have run longest first; `exact`: these are all."""

    records: list[TaskRecord]
    exact: bool
    usual: dict[str, float]
    """The 95th percentile of the run times, in seconds, by type; without the types that are not known enough."""


class Running:
    """Reads them; simultaneous viewers share one reading."""

    def __init__(self, engine: TaskEngine, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = asyncio.Lock()
        self._read: tuple[float, RunningNow] | None = None
        self._percentiles: dict[str, tuple[float, float | None]] = {}
        """When the percentile of a type was read, and what it was."""

    async def read(self) -> RunningNow:
        """The running tasks, at most a second old."""
        # All who have waited for a slow reading share the next one.
        asked = self._clock.monotonic()
        async with self._lock:
            if self._read is None or asked - self._read[0] > _FRESH:
                self._read = self._clock.monotonic(), await self._now()
            return self._read[1]

    async def _now(self) -> RunningNow:
        query = TaskQuery(status=TaskStatus.RUNNING, limit=MAX_PAGE)
        found: list[TaskRecord] = []
        while True:
            page = await self._engine.lookup.page(query)
            found += page.records
            if page.next_cursor is None or len(found) >= COUNT_LIMIT:
                break
            query = replace(query, cursor=page.next_cursor)
        # One that has ended since may be on a page.
        running = [record for record in found if record.status is TaskStatus.RUNNING]
        running.sort(key=lambda record: record.start_time or record.created_at)
        usual = await self._usual({record.func_name for record in running})
        return RunningNow(running, page.next_cursor is None, usual)

    async def _usual(self, names: set[str]) -> dict[str, float]:
        now = self._clock.monotonic()
        known = {name: one for name, one in self._percentiles.items() if now - one[0] <= _USUAL_FRESH}
        if not names <= known.keys():
            read = await self._percentiles_of_all()
            known |= {name: (now, read.get(name)) for name in names}
        self._percentiles = known
        return {name: seconds for name in names if (seconds := known[name][1]) is not None}

    async def _percentiles_of_all(self) -> dict[str, float]:
        until = self._clock.now()
        first, last = Span.HOUR.slot(until - _WINDOW), Span.HOUR.slot(until)
        success = {TaskStatus.SUCCESS.value}
        figures = await self._engine.lookup.figures(Span.HOUR, first, last, by_name=True, kinds=success)
        runs: dict[str, Distribution] = {}
        for figure in figures or ():
            runs.setdefault(figure.func_name, Distribution()).add(figure)
        found = {name: one.percentile(0.95) for name, one in runs.items() if one.count >= _ENOUGH}
        return {name: seconds for name, seconds in found.items() if seconds is not None}
