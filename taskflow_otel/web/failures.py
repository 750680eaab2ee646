"""What went wrong as a worklist: the groups of failures, in the order that a person asks for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from taskflow_otel.backends.failures import GroupCount, grouped
from taskflow_otel.model.failure import normalise
from taskflow_otel.model.query import FailureGroup, FailureGroups, TaskQuery, Trend
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import FailureOrder, Trending
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.ignored import Ignored, IgnoredGroups
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.failures import FailureGroupOut, FailuresOut

PROBLEMS = (TaskStatus.FAILED, TaskStatus.INTERRUPTED, TaskStatus.REJECTED)
"""The states of tasks that went wrong."""
SCAN_LIMIT = 1_000
"""The tasks of each state that are read where the backend does not count groups."""
HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_FEWEST = 5
"""Failures within an hour that can be a rise."""
_FRESH = 1.0
_KNOWN = 5_000
_READ_AT_ONCE = 200
_LENGTH = 200
_PAGES = 5
_POINTS = 24
_LONGEST = timedelta(days=31)
"""The longest window of the points of a group."""


@dataclass(frozen=True, slots=True)
class About:
    """What is the same for all tasks of a group, and what one of them shows."""

    func_name: str
    status: TaskStatus
    reason: str | None
    error_type: str | None
    error: str
    example: str

    def mentions(self, text: str) -> bool:
        """Whether a search text is part of it."""
        parts = (self.func_name, self.error_type or "", self.error, self.example, self.reason or "")
        return any(text in part.lower() for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which groups a person asks for, and in which order."""

    query: TaskQuery
    order: FailureOrder = FailureOrder.LAST
    ignored: bool | None = False
    """`None`: those that are ignored too; `True`: only these."""
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Slots:
    """The parts of a window for the points of a group."""

    first: int
    last: int
    seconds: int

    @classmethod
    def until(cls, now: datetime, since: datetime | None, number: int) -> Slots:
        """About `number` parts of the window from `since` (by default a day ago) until now."""
        length = min(_LONGEST, max(timedelta(minutes=1), now - (since or now - _DAY)))
        seconds = max(60, -(-int(length.total_seconds()) // number // 60) * 60)
        last = int(now.timestamp()) // seconds * seconds
        return cls(last - (number - 1) * seconds, last, seconds)


class Worklist:
    """Reads the groups. What was counted is used again for a second, and what is the same in a group for longer."""

    def __init__(self, engine: TaskEngine, ignored: IgnoredGroups, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._ignored = ignored
        self._clock = clock
        self._about: OrderedDict[str, About] = OrderedDict()
        self._read: tuple[float, TaskQuery, Trend, FailureGroups] | None = None
        self._lock = asyncio.Lock()

    async def page(self, wanted: Wanted) -> FailuresOut:
        """One page of the groups."""
        query, now = wanted.query, self._clock.now()
        counted, trend = await self._counted(query)
        groups = [group for group in counted.groups if _within(group, query)]
        ignored = await self._ignored.read(now)
        about = await self.about(groups)
        shown = [
            group
            for group in groups
            if (one := about.get(group.fingerprint)) is not None
            and query.func_name in (None, one.func_name)
            and query.status in (None, one.status)
            and (query.q is None or one.mentions(query.q.lower()))
            and wanted.ignored in (None, self._is_ignored(group, ignored) is not None)
        ]
        shown.sort(key=lambda group: _place(group, wanted.order), reverse=True)
        page = shown if wanted.cursor is None else _after(shown, wanted.order, wanted.cursor)
        page, rest = page[: wanted.limit], page[wanted.limit :]
        slots = Slots.until(now, query.ended_since, _POINTS)
        points = await self.points([group.fingerprint for group in page], slots)
        return FailuresOut(
            since=datetime.fromtimestamp(slots.first, now.tzinfo),
            bucket_seconds=slots.seconds,
            total=len(shown),
            open=sum(group.open for group in shown),
            exact=counted.exact,
            next_cursor=_cursor(page[-1], wanted.order) if rest else None,
            groups=[
                self.out(group, about[group.fingerprint], trend, ignored, points.get(group.fingerprint, []))
                for group in page
            ],
        )

    async def group(self, fingerprint: str) -> tuple[FailureGroup, Trend] | None:
        """One group, or `None`."""
        counted, trend = await self._count(TaskQuery(fingerprint=fingerprint))
        return next(((group, trend) for group in counted.groups if group.fingerprint == fingerprint), None)

    def out(
        self, group: FailureGroup, about: About, trend: Trend, ignored: dict[str, Ignored], points: list[int]
    ) -> FailureGroupOut:
        """The answer about one group."""
        by = self._is_ignored(group, ignored)
        assert group.first_at is not None
        assert group.last_at is not None
        return FailureGroupOut(
            fingerprint=group.fingerprint,
            status=about.status,
            reason=about.reason,
            func_name=about.func_name,
            error_type=about.error_type,
            error=about.error,
            example=about.example,
            count=group.total,
            open=group.open,
            waiting=group.waiting,
            first_at=group.first_at,
            last_at=group.last_at,
            recent=group.recent,
            trend=trending(group, trend),
            ignored=None if by is None else by.out(),
            points=points,
        )

    async def about(self, groups: Iterable[FailureGroup]) -> dict[str, About]:
        """What is the same in each group; one whose tasks have just been deleted is left out."""
        known = self._about
        unknown = {group.newest: group.fingerprint for group in groups if group.fingerprint not in known}
        newest = list(unknown)
        for start in range(0, len(newest), _READ_AT_ONCE):
            some = newest[start : start + _READ_AT_ONCE]
            for task_id, record in (await self._engine.lookup.get_all(some)).items():
                if record.fingerprint == unknown[task_id]:
                    known[unknown[task_id]] = about(record)
        found = {group.fingerprint: known[group.fingerprint] for group in groups if group.fingerprint in known}
        while len(known) > max(_KNOWN, len(found)):
            known.popitem(last=False)
        return found

    async def points(self, fingerprints: Collection[str], slots: Slots) -> dict[str, list[int]]:
        """How many tasks of each group ended in each part of the window; empty if the backend does not tell."""
        if not fingerprints:
            return {}
        found = await self._engine.lookup.occurrences(fingerprints, slots.first, slots.last, slots.seconds)
        if found is None:
            return {}
        every = range(slots.first, slots.last + slots.seconds, slots.seconds)
        return {name: [found.get(name, {}).get(slot, 0) for slot in every] for name in fingerprints}

    async def _counted(self, query: TaskQuery) -> tuple[FailureGroups, Trend]:
        """The groups of all tasks that the conditions select which are not the same in a group."""
        narrow = replace(query, func_name=None, status=None, q=None, ended_since=None, ended_until=None)
        async with self._lock:
            read = self._read
            if read is None or read[1] != narrow or self._clock.monotonic() - read[0] > _FRESH:
                counted, trend = await self._count(narrow)
                read = self._read = self._clock.monotonic(), narrow, trend, counted
            return read[3], read[2]

    async def _count(self, query: TaskQuery) -> tuple[FailureGroups, Trend]:
        recent = self._clock.now() - HOUR
        trend = Trend(recent, recent - _DAY)
        counted = await self._engine.lookup.failure_groups(query, trend)
        return (await self._scanned(query, trend) if counted is None else counted), trend

    async def _scanned(self, query: TaskQuery, trend: Trend) -> FailureGroups:
        """The groups of the newest tasks that went wrong, from a backend that does not count them."""
        counts: dict[str, GroupCount] = {}
        exact = True
        for status in PROBLEMS:
            wanted = replace(query, status=status, limit=SCAN_LIMIT)
            # A page may end before it is full, if the backend has read many tasks for it.
            for _ in range(_PAGES):
                page = await self._engine.lookup.page(wanted)
                grouped(page.records, trend, counts)
                wanted = replace(wanted, cursor=page.next_cursor, limit=wanted.limit - len(page.records))
                if wanted.cursor is None or wanted.limit <= 0:
                    break
            exact = exact and wanted.cursor is None
        return FailureGroups([count.result() for count in counts.values()], exact)

    @staticmethod
    def _is_ignored(group: FailureGroup, ignored: dict[str, Ignored]) -> Ignored | None:
        """Who ignores it; nobody if it has risen since."""
        found = ignored.get(group.fingerprint)
        if found is None or (group.recent >= _FEWEST and group.recent > 2 * max(found.recent, group.before / 24)):
            return None
        return found


def about(record: TaskRecord) -> About:
    """What a task shows of its group."""
    failed = record.status is TaskStatus.FAILED
    return About(
        func_name=record.func_name,
        status=record.status,
        # Why a task failed is in its error; a task of the other states may have the error of an earlier attempt.
        reason=None if failed else record.reason,
        error_type=record.error_type if failed else None,
        error=normalise(record.error),
        example=(record.error or "").strip().partition("\n")[0][:_LENGTH],
    )


def trending(group: FailureGroup, trend: Trend) -> Trending | None:
    """Whether a group is new or rising."""
    if group.first_at is not None and group.first_at >= trend.recent:
        return Trending.NEW
    risen = group.recent >= _FEWEST and group.recent > 2 * group.before / 24
    return Trending.RISING if risen else None


def _within(group: FailureGroup, query: TaskQuery) -> bool:
    """Whether one of its tasks may have ended in the window."""
    since, until = query.ended_since, query.ended_until
    if group.first_at is None or group.last_at is None:
        return False
    return (since is None or group.last_at >= since) and (until is None or group.first_at < until)


def _place(group: FailureGroup, order: FailureOrder) -> tuple[int, str]:
    """Where a group is in an order; of equals, any fixed one is first."""
    if order is FailureOrder.OPEN:
        return group.open, group.fingerprint
    if order is FailureOrder.COUNT:
        return group.total, group.fingerprint
    if order is FailureOrder.RECENT:
        return group.recent, group.fingerprint
    moment = group.first_at if order is FailureOrder.APPEARED else group.last_at
    return (0 if moment is None else int(moment.timestamp() * 1_000_000)), group.fingerprint


def _cursor(group: FailureGroup, order: FailureOrder) -> str:
    return "{}-{}".format(*_place(group, order))


def _after(groups: list[FailureGroup], order: FailureOrder, cursor: str) -> list[FailureGroup]:
    """The groups after a place; while they change, one may appear on two pages, or on none."""
    number, _, fingerprint = cursor.partition("-")
    return [group for group in groups if _place(group, order) < (int(number), fingerprint)]
