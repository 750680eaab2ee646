"""What is left of the error budgets, from the ledger, so that it covers all instances and needs no Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from taskflow_otel.exporters import signals
from taskflow_otel.model.figures import Figure, Span, moment_of
from taskflow_otel.model.objective import SLO
from taskflow_otel.model.vocabulary import ObjectiveResult
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.ports import MetricsPage, TaskEngine
from taskflow_otel.wire.figures import ObjectiveOut

_FRESH = 2.0
_GOOD, _BAD = ObjectiveResult.GOOD.value, ObjectiveResult.BAD.value


class Budgets:
    """Reads the numbers; simultaneous viewers share one reading, which is at most two seconds old."""

    def __init__(self, engine: TaskEngine, metrics: MetricsPage, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._read: tuple[float, list[ObjectiveOut]] | None = None
        self._lock = asyncio.Lock()

    async def read(self) -> list[ObjectiveOut]:
        """The objectives of the task types of this process, by name."""
        declared = self._engine.objectives.declared()
        if not declared:
            return []
        # All who have waited for a slow reading share the next one.
        asked = self._clock.monotonic()
        async with self._lock:
            if self._read is None or asked - self._read[0] > _FRESH:
                self._read = self._clock.monotonic(), await self._measure(declared)
            return self._read[1]

    async def _measure(self, declared: Mapping[str, SLO]) -> list[ObjectiveOut]:
        now = self._clock.now()
        longest = timedelta(seconds=max(slo.window_seconds for slo in declared.values()))
        figures = await self._engine.lookup.figures(
            Span.HOUR, Span.HOUR.slot(now - longest), Span.HOUR.slot(now), by_name=True, kinds=(_GOOD, _BAD)
        )
        overdue = self._metrics.of_all(signals.SLO_OVERDUE.name)
        found = []
        for task, slo in sorted(declared.items()):
            first = Span.HOUR.slot(now - timedelta(seconds=slo.window_seconds))
            mine = None if figures is None else [one for one in figures if one.func_name == task and one.slot >= first]
            found.append(_budget(task, slo, first, mine, int(overdue.get((task,), 0))))
        return found


def _budget(task: str, slo: SLO, first: int, figures: list[Figure] | None, overdue: int) -> ObjectiveOut:
    known = ObjectiveOut(
        task=task,
        success=slo.success,
        within_seconds=slo.within_seconds,
        window_seconds=slo.window_seconds,
        overdue=overdue,
        since=None,
        good=None,
        bad=None,
        good_share=None,
        budget_left=None,
    )
    if figures is None:
        return known
    good, bad = (sum(one.tasks for one in figures if one.kind == kind) for kind in (_GOOD, _BAD))
    bad += overdue
    share = good / (good + bad) if good + bad else None
    return known.model_copy(
        update={
            "since": moment_of(min((one.slot for one in figures), default=first)),
            "good": good,
            "bad": bad,
            "good_share": share,
            "budget_left": 1.0 if share is None else 1.0 - (1.0 - share) / (1.0 - slo.success),
        }
    )
