"""The queues and schedules of all instances together, from what each says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from taskflow_otel.backends.pool import PoolDepth
from taskflow_otel.model.board import Pause, QueueLoad, Said
from taskflow_otel.model.figures import Span
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.answers import planned_out, schedule_out
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.fleet import QueueOut, QueueShareOut, ScheduleOut

_FRESH = 5.0
_DAY = timedelta(hours=24)


class Fleet:
    """Reads what the instances say, and the runs that failed."""

    def __init__(self, engine: TaskEngine, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._clock = clock
        self._failed: tuple[float, dict[str, int] | None] | None = None

    async def queues(self) -> list[QueueOut]:
        """All queues by name."""
        said, own = await self._engine.board.read(), self._engine.queues.stats()
        pooled = await self._engine.lookup.in_pool([name for name, stats in own.items() if stats.shared])
        pauses, now = self._engine.queues.pauses(), self._clock.now()
        declared = {name for one in said.values() for name in one.queues}
        # The tasks of a queue that is declared here and not shared are in the pool for a moment only.
        pooled = {name: depth for name, depth in pooled.items() if name not in own or own[name].shared}
        return [
            _queue(
                name,
                _shares(name, said),
                pooled.get(name),
                own[name].paused if name in own else False,
                pauses.get(name),
                now,
            )
            for name in sorted(declared | pooled.keys())
        ]

    async def queue(self, name: str) -> QueueOut:
        """One queue of the answering instance, as it is on all instances."""
        return next(queue for queue in await self.queues() if queue.name == name)

    async def schedules(self) -> list[ScheduleOut]:
        """The recurring schedules by name, then the planned runs of all instances, the next first."""
        book = self._engine.schedules
        planned = [planned_out(run) for run in await book.planned()]
        statuses = book.statuses()
        said = (await self._engine.board.read()).values() if statuses else ()
        failed = await self._failed_runs() if statuses else None
        last = await self._engine.lookup.get_all([status.last_task_id for status in statuses if status.last_task_id])
        recurring = []
        for status in statuses:
            out = schedule_out(status)
            troubles = [one.schedules[status.name] for one in said if status.name in one.schedules]
            out.missed = sum(trouble.missed for trouble in troubles)
            out.errors = sum(trouble.errors for trouble in troubles)
            out.last_error = next((t.last_error for t in troubles if t.last_error is not None), None)
            out.failed_runs = None if failed is None else failed.get(status.func_name, 0)
            run = last.get(status.last_task_id or "")
            out.last_status = None if run is None else run.status
            recurring.append(out)
        return [*recurring, *planned]

    async def _failed_runs(self) -> dict[str, int] | None:
        """How many tasks of each name failed within a day, or were interrupted; `None` if that is not kept."""
        known = self._failed
        if known is None or self._clock.monotonic() - known[0] > _FRESH:
            now = self._clock.now()
            figures = await self._engine.lookup.figures(
                Span.HOUR, Span.HOUR.slot(now - _DAY), Span.HOUR.slot(now), by_name=True
            )
            counts: dict[str, int] = {}
            for figure in figures or ():
                if figure.kind in _WRONG:
                    counts[figure.func_name] = counts.get(figure.func_name, 0) + figure.tasks
            known = self._failed = self._clock.monotonic(), None if figures is None else counts
        return known[1]


_WRONG = {TaskStatus.FAILED.value, TaskStatus.INTERRUPTED.value}


def _shares(name: str, said: Mapping[str, Said]) -> dict[str, QueueLoad]:
    return {instance_id: one.queues[name] for instance_id, one in said.items() if name in one.queues}


def _queue(
    name: str,
    shares: Mapping[str, QueueLoad],
    pooled: PoolDepth | None,
    paused: bool,
    pause: Pause | None,
    now: datetime,
) -> QueueOut:
    loads = list(shares.values())
    ages = [_age(load, now) for load in loads]
    if pooled is not None:
        ages.append(_since(pooled.oldest, now))
    # The limits are the same everywhere, but for a moment after a change.
    first = loads[0] if loads else QueueLoad()
    return QueueOut(
        name=name,
        concurrency=first.concurrency,
        max_size=first.max_size,
        slots=_sum(load.concurrency for load in loads if load.claimed),
        running=sum(load.running for load in loads),
        ready=sum(load.ready for load in loads) + (0 if pooled is None else pooled.tasks),
        in_pool=0 if pooled is None else pooled.tasks,
        claimers=sum(load.claimed for load in loads),
        delayed=sum(load.delayed for load in loads),
        paused=paused,
        paused_by=pause.by if paused and pause else None,
        paused_since=pause.since if paused and pause else None,
        paused_reason=pause.reason if paused and pause else None,
        oldest_ready_age_seconds=max((age for age in ages if age is not None), default=None),
        instances=[
            QueueShareOut(
                instance_id=instance_id,
                running=load.running,
                ready=load.ready,
                delayed=load.delayed,
                oldest_ready_age_seconds=_age(load, now),
            )
            for instance_id, load in sorted(shares.items())
        ],
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    """The sum; `None` if one of the numbers is `None`, which is no limit."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _age(load: QueueLoad, now: datetime) -> float | None:
    if not load.ready or load.ready_since is None:
        return None
    return _since(load.ready_since, now)


def _since(moment: datetime, now: datetime) -> float:
    # The clocks of two hosts differ.
    return max(0.0, (now - moment).total_seconds())
