"""The types of tasks: how many finish, how many of them fail, and how long they run and wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from taskflow_otel.model.figures import (
    RETRIED,
    STATUSES,
    UNTIMED,
    WAIT,
    Distribution,
    Figure,
    Span,
    band_limit,
    band_of,
    bucket_of,
    moment_of,
)
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import TaskConfig
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.owned_tasks import in_slices
from taskflow_otel.web.answers import task_out
from taskflow_otel.web.figures import WindowFigures
from taskflow_otel.web.objectives import Budgets
from taskflow_otel.web.overview import Window, points_of
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.task_types import (
    TaskTypeOut,
    TaskTypesOut,
    TypeDetailOut,
    TypeFiguresOut,
    TypeHourOut,
    TypeOptionsOut,
)

WINDOWS = {"1h": Window(3_600, 120), "24h": Window(86_400, 3_600)}
"""Those of the table."""
WINDOWS_OF_ONE = {**WINDOWS, "7d": Window(7 * 86_400, 3_600)}
_WEEK = 7 * 86_400
_HOUR = Span.HOUR.seconds
_FRESH = 2.0
_STEADY = 30.0
"""Seconds for which the figures of a past hour and the slowest tasks are used again."""
_KNOWN = 64
"""Readings of single types that are remembered."""
_AT_ONCE = 2_000
_MOST_TYPES = 1_000
_SLOWEST = 10
_PAGE = 500
_PAGES = 4
_SUCCESS, _FAILED = TaskStatus.SUCCESS.value, TaskStatus.FAILED.value


class _Sums:
    """The figures of one type, added up."""

    def __init__(self) -> None:
        self.runs = Distribution()
        self.waits = Distribution()
        self.by_status: dict[str, int] = {}
        self.by_point: dict[int, int] = {}
        self.retried = 0
        self.retries = 0

    def add(self, figure: Figure, width: int) -> None:
        if figure.kind == WAIT:
            self.waits.add(figure)
        elif figure.kind in STATUSES:
            self.runs.add(figure)
            self.by_status[figure.kind] = self.by_status.get(figure.kind, 0) + figure.tasks
            point = figure.slot // width
            self.by_point[point] = self.by_point.get(point, 0) + figure.tasks
        elif figure.kind == RETRIED:
            self.retried += figure.tasks
            self.retries += figure.tasks * figure.bucket


async def _added(figures: Iterable[Figure], width: int) -> dict[str, _Sums]:
    """The sums of each type."""
    found: dict[str, _Sums] = {}
    async for figure in in_slices(list(figures), _AT_ONCE):
        sums = found.get(figure.func_name)
        if sums is None:
            sums = found[figure.func_name] = _Sums()
        sums.add(figure, width)
    return found


@dataclass(frozen=True, slots=True)
class _Hours:
    """Two hours that are compared, each by the name of the type; `None` if it is not known."""

    last: int
    now: Mapping[str, _Sums] | None
    before: Mapping[str, _Sums] | None


class _Slowest(NamedTuple):
    records: list[TaskRecord]
    exact: bool


class TaskTypes:
    """Reads the types; simultaneous viewers share one reading."""

    def __init__(self, engine: TaskEngine, budgets: Budgets, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._budgets = budgets
        self._clock = clock
        self._windows = {
            name: WindowFigures(engine, clock, window.width, by_name=True) for name, window in WINDOWS.items()
        }
        self._hours: tuple[float, _Hours] | None = None
        self._tables: dict[str, tuple[float, TaskTypesOut]] = {}
        self._details: OrderedDict[tuple[str, str], tuple[float, TypeDetailOut]] = OrderedDict()
        self._slow: OrderedDict[tuple[str, str], tuple[float, _Slowest]] = OrderedDict()
        self._lock = asyncio.Lock()

    async def table(self, window: str) -> TaskTypesOut:
        """All types, over one of `WINDOWS`."""
        # All who have waited for a slow reading share the next one.
        asked = self._clock.monotonic()
        async with self._lock:
            known = self._tables.get(window)
            if known is None or asked - known[0] > _FRESH:
                known = self._tables[window] = self._clock.monotonic(), await self._measure(window)
            return known[1]

    async def one(self, name: str, window: str) -> TypeDetailOut | None:
        """One type, over one of `WINDOWS_OF_ONE`; `None` if it is not declared here and no task of it is known."""
        async with self._lock:
            known = self._details.pop((name, window), None)
            if known is None or self._old(known[0], _FRESH):
                read = await self._measure_one(name, window)
                if read is None:
                    return None
                known = self._clock.monotonic(), read
            _remember(self._details, (name, window), known)
            return known[1]

    async def _measure(self, window_name: str) -> TaskTypesOut:
        window, now = WINDOWS[window_name], self._clock.now()
        since = _begin(window, now)
        figures = await self._windows[window_name].read(since, now)
        sums = None if figures is None else await _added(figures, window.width)
        hours = await self._compared(now)
        declared = self._declared()
        run_time = sum(one.runs.seconds for one in (sums or {}).values())
        parts = range(since // window.width, int(now.timestamp()) // window.width + 1)
        types = []
        for name in {*declared, *(sums or ())}:
            mine = None if sums is None else sums.get(name) or _Sums()
            types.append(
                TaskTypeOut(
                    **_numbers(name, mine, hours, is_declared=name in declared),
                    run_share=mine.runs.seconds / run_time if mine is not None and run_time else None,
                    points=[] if mine is None else [mine.by_point.get(part, 0) for part in parts],
                )
            )
        types.sort(key=lambda one: (-(one.run_seconds or 0.0), -(one.finished or 0), one.func_name))
        return TaskTypesOut(
            window_seconds=window.seconds,
            since=moment_of(since),
            until=now,
            bucket_seconds=window.width,
            total=len(types),
            types=types[:_MOST_TYPES],
        )

    async def _measure_one(self, name: str, window_name: str) -> TypeDetailOut | None:
        window, now = WINDOWS_OF_ONE[window_name], self._clock.now()
        since = _begin(window, now)
        lookup = self._engine.lookup
        figures = await WindowFigures(self._engine, self._clock, window.width, by_name=True, names=[name]).read(
            since, now
        )
        stored = await lookup.counts(TaskQuery(func_name=name))
        config = self._declared().get(name)
        if config is None and not figures and not stored.total:
            return None
        sums = None if figures is None else (await _added(figures, window.width)).get(name) or _Sums()
        until = int(now.timestamp())
        bands, heat = _heat(figures or (), window.width, since, until)
        slowest = await self._slowest(name, window_name, since, sums)
        return TypeDetailOut(
            **_numbers(name, sums, await self._compared(now), is_declared=config is not None),
            window_seconds=window.seconds,
            since=moment_of(since),
            until=now,
            bucket_seconds=window.width,
            running=stored.by_status.get(TaskStatus.RUNNING, 0),
            pending=stored.by_status.get(TaskStatus.PENDING, 0),
            retried=None if sums is None else sums.retried,
            points=[] if figures is None else points_of(figures, window.width, since, until),
            bands=bands,
            heat=heat,
            slowest=[task_out(record, with_args=False) for record in slowest.records],
            slowest_exact=slowest.exact,
            options=None if config is None else _options(config),
            objective=next((one for one in await self._budgets.read() if one.task == name), None),
        )

    async def _compared(self, now: datetime) -> _Hours:
        """The last whole hour, and the same one a week before."""
        last = Span.HOUR.slot(now) - _HOUR
        known = self._hours
        if known is None or known[1].last != last or self._old(known[0], _STEADY):
            oldest = await self._engine.lookup.counted_since(Span.HOUR)
            hours = _Hours(
                last,
                # Something is known of an hour if tasks were counted before it ended. That nothing finished in it is
                # known only if they were counted before it began.
                await self._hour(last) if oldest is not None and oldest <= last else None,
                await self._hour(last - _WEEK) if oldest is not None and oldest < last - _WEEK else None,
            )
            known = self._hours = self._clock.monotonic(), hours
        return known[1]

    async def _hour(self, slot: int) -> dict[str, _Sums]:
        return await _added(await self._engine.lookup.figures(Span.HOUR, slot, slot, by_name=True) or (), _HOUR)

    async def _slowest(self, name: str, window: str, since: int, sums: _Sums | None) -> _Slowest:
        """The tasks of the window that ran longest.

        They are looked for among the newest ones, until as many have been found as the figures say there are.
        """
        known = self._slow.pop((name, window), None)
        if known is None or self._old(known[0], _STEADY):
            known = self._clock.monotonic(), await self._look_for_slowest(name, since, sums)
        _remember(self._slow, (name, window), known)
        return known[1]

    async def _look_for_slowest(self, name: str, since: int, sums: _Sums | None) -> _Slowest:
        if sums is not None and not sums.runs.count:
            return _Slowest([], exact=True)
        least, expected = (0, None) if sums is None else sums.runs.from_top(_SLOWEST)
        wanted = TaskQuery(func_name=name, ended_since=moment_of(since), limit=_PAGE)
        found: list[TaskRecord] = []
        seen, exact = 0, False
        for _ in range(_PAGES):
            page = await self._engine.lookup.page(wanted)
            timed = [record for record in page.records if record.duration is not None]
            seen += sum(bucket_of(record.duration or 0.0) >= least for record in timed)
            found = sorted([*found, *timed], key=_run_time, reverse=True)[:_SLOWEST]
            exact = page.next_cursor is None or (expected is not None and seen >= expected)
            if exact:
                break
            wanted = replace(wanted, cursor=page.next_cursor)
        return _Slowest(found, exact)

    def _declared(self) -> dict[str, TaskConfig]:
        return {one.config.name: one.config for one in self._engine.types.all()}

    def _old(self, read_at: float, seconds: float) -> bool:
        return self._clock.monotonic() - read_at > seconds


def _remember(known: OrderedDict[tuple[str, str], Any], key: tuple[str, str], value: Any) -> None:
    known[key] = value
    while len(known) > _KNOWN:
        known.popitem(last=False)


def _run_time(record: TaskRecord) -> float:
    return record.duration or 0.0


def _begin(window: Window, now: datetime) -> int:
    """The first slot of a window; figures of minutes are kept for a day, so a longer one begins on a whole hour."""
    span = Span.MINUTE if window.seconds <= 86_400 else Span.HOUR
    return span.slot(now - timedelta(seconds=window.seconds))


def _numbers(name: str, sums: _Sums | None, hours: _Hours, *, is_declared: bool) -> dict[str, Any]:
    """The fields of `TypeFiguresOut`."""
    last, before = _hour_out(name, hours.last, hours.now), _hour_out(name, hours.last - _WEEK, hours.before)
    known = TypeFiguresOut(
        func_name=name,
        is_declared=is_declared,
        finished=None,
        success=None,
        failed=None,
        failure_share=None,
        retries=None,
        run_p50_seconds=None,
        run_p95_seconds=None,
        run_p99_seconds=None,
        wait_p95_seconds=None,
        run_seconds=None,
        last_hour=last,
        week_before=before,
        change=None if last is None or before is None else _change(last.finished, before.finished),
        slower=None if last is None or before is None else _change(last.run_p95_seconds, before.run_p95_seconds),
    )
    if sums is None:
        return dict(known)
    success, failed = sums.by_status.get(_SUCCESS, 0), sums.by_status.get(_FAILED, 0)
    return dict(known) | {
        "finished": sum(sums.by_status.values()),
        "success": success,
        "failed": failed,
        "failure_share": failed / (success + failed) if success + failed else None,
        "retries": sums.retries,
        "run_p50_seconds": sums.runs.percentile(0.5),
        "run_p95_seconds": sums.runs.percentile(0.95),
        "run_p99_seconds": sums.runs.percentile(0.99),
        "wait_p95_seconds": sums.waits.percentile(0.95),
        "run_seconds": sums.runs.seconds,
    }


def _hour_out(name: str, slot: int, hour: Mapping[str, _Sums] | None) -> TypeHourOut | None:
    if hour is None:
        return None
    sums = hour.get(name) or _Sums()
    return TypeHourOut(
        since=moment_of(slot),
        finished=sum(sums.by_status.values()),
        failed=sums.by_status.get(_FAILED, 0),
        run_p95_seconds=sums.runs.percentile(0.95),
    )


def _change(now: float | None, before: float | None) -> float | None:
    return None if now is None or not before else now / before - 1.0


def _heat(figures: Iterable[Figure], width: int, since: int, until: int) -> tuple[list[float], list[list[int]]]:
    """The run times with which the rows begin, and the numbers of each column; both empty if nothing ran."""
    cells: dict[tuple[int, int], int] = {}
    for figure in figures:
        if figure.kind in STATUSES and figure.bucket != UNTIMED:
            cell = figure.slot // width, band_of(figure.bucket)
            cells[cell] = cells.get(cell, 0) + figure.tasks
    if not cells:
        return [], []
    bands = range(min(band for _, band in cells), max(band for _, band in cells) + 1)
    columns = range(since // width, until // width + 1)
    heat = [[cells.get((column, band), 0) for band in bands] for column in columns]
    return [band_limit(band) for band in bands], heat


def _options(config: TaskConfig) -> TypeOptionsOut:
    return TypeOptionsOut(
        retries=config.retries,
        delay=config.delay,
        backoff=config.backoff,
        max_delay=config.max_delay,
        jitter=config.jitter,
        retry_on=[one.__name__ for one in config.retry_on],
        no_retry_on=[one.__name__ for one in config.no_retry_on],
        timeout=config.timeout,
        persist=config.persist,
        requeue_on_interrupt=config.requeue_on_interrupt,
        eager=config.eager,
        priority=config.priority,
        queue=config.queue,
        executor=config.executor,
    )
