"""The figures of the ledger, read again only where they may have changed."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TypedDict, Unpack

from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.web.ports import TaskEngine

_TRUSTED = 120.0
"""Seconds until everything is read again: an instance may store what finished long ago after an outage."""
_OPEN = 120
"""Seconds after its end in which a slot is still read each time: outcomes reach the ledger a moment later."""


class Which(TypedDict, total=False):
    """Which figures are read; see `TaskLookup.figures`."""

    by_name: bool
    names: Collection[str] | None


class SettledFigures:
    """The figures of the slots of one length, of all tasks together or of each type, read as seldom as possible.

    The figures of a slot that ended some time ago do not change any more, so only the newest ones are read again.
    """

    def __init__(self, engine: TaskEngine, span: Span, clock: Clock, **which: Unpack[Which]) -> None:
        self._engine = engine
        self._which = which
        self._span = span
        self._clock = clock
        self._settled: dict[int, list[Figure]] = {}
        self._range: tuple[int, int] | None = None
        """The first and the last slot that are settled."""
        self._trusted_until = clock.monotonic() + _TRUSTED

    async def read(self, first: int, last: int) -> list[Figure] | None:
        """The figures of the slots from `first` to `last`; `None` if the backend does not keep figures."""
        step, known = self._span.seconds, self._range
        if self._clock.monotonic() > self._trusted_until or known is None or not known[0] <= first <= known[1] + step:
            self._settled, known = {}, None
            self._trusted_until = self._clock.monotonic() + _TRUSTED
        start = first if known is None else known[1] + step
        read = await self._engine.lookup.figures(self._span, start, last, **self._which) if start <= last else []
        if read is None:
            return None
        found = {slot: figures for slot, figures in self._settled.items() if slot >= first}
        for figure in read:
            found.setdefault(figure.slot, []).append(figure)
        settled = min(last, self._span.slot(self._clock.now() - timedelta(seconds=_OPEN)) - step)
        self._settled = {slot: figures for slot, figures in found.items() if slot <= settled}
        self._range = first, max(settled, first - step)
        return [figure for figures in found.values() for figure in figures]


class WindowFigures:
    """The figures of a window until now, whose points are `width` seconds wide.

    If a point is an hour or more, they are those of whole hours, and those of minutes before the first whole one.
    """

    def __init__(self, engine: TaskEngine, clock: Clock, width: int, **which: Unpack[Which]) -> None:
        self._by_hours = width >= Span.HOUR.seconds
        self._minutes = SettledFigures(engine, Span.MINUTE, clock, **which)
        self._hours = SettledFigures(engine, Span.HOUR, clock, **which)

    async def read(self, since: int, now: datetime) -> list[Figure] | None:
        """The figures from the slot `since` on; `None` if the backend does not keep figures."""
        if not self._by_hours:
            return await self._minutes.read(since, Span.MINUTE.slot(now))
        first_hour = -(-since // Span.HOUR.seconds) * Span.HOUR.seconds
        before = await self._minutes.read(since, first_hour - Span.MINUTE.seconds)
        after = await self._hours.read(first_hour, Span.HOUR.slot(now))
        return None if before is None or after is None else before + after
