"""The time limits of tasks in the pool, which nobody owns: the first instance that sees one pass judges it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.objectives import ObjectiveWatch
from taskflow_otel.engine.phase import Phase
from taskflow_otel.model.objective import missed
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_PAGE = 100
_WHOLE = 60.0
"""Seconds between two rounds that read everything; more where that takes long."""
_SHARE = 50
"""The time between them, in times that the last one took."""


class Lends(Protocol):
    """The part of `Pool` that is needed here."""

    async def claim_one(self, task_id: str) -> LiveTask | None: ...

    def share(self, task: LiveTask) -> None: ...


class PoolObjectives(Service):
    """Judges the tasks in the pool whose time limit has passed, in rounds.

    To write the line, an instance claims the task, and gives it back as it was: the fencing token lets only one of
    several instances do so, and if it dies in between, the task is taken over like any other.

    A round reads the pending tasks of a type that are old enough, the newest first, down to a page on which none is to
    be judged, and then judges them from the oldest one on. So what a failed round leaves are the newest, and the next
    round finds them. About once a minute a round reads all of them: a task that was delayed on purpose is late after
    others of its age. `waiting`: the queues that have tasks in the pool. `pool`: the `Pool`.
    """

    def __init__(
        self,
        objectives: ObjectiveWatch,
        page: Callable[[TaskQuery], Awaitable[TaskPage]],
        waiting: Callable[[], Collection[str]],
        pool: Lends,
        stop: Callable[[LiveTask, Reason], Awaitable[None]],
        clock: Clock,
        interval: float,
    ) -> None:
        super().__init__("pool-objectives", interval, clock)
        self._objectives = objectives
        self._page = page
        self._waiting = waiting
        self._pool = pool
        self._stop_task = stop
        self._clock = clock
        self._whole_at = clock.monotonic() + _WHOLE

    async def tick(self) -> None:
        """Judge what is late."""
        began = self._clock.monotonic()
        whole = began >= self._whole_at
        for queue in self._waiting():
            for name, slo in self._objectives.declared().items():
                if slo.within_seconds is not None:
                    await self._sweep(queue, name, slo.within_seconds, whole=whole)
        if whole:
            now = self._clock.monotonic()
            self._whole_at = now + max(_WHOLE, _SHARE * (now - began))

    async def _sweep(self, queue: str, name: str, within: float, *, whole: bool) -> None:
        until = self._clock.now() - timedelta(seconds=within)
        query = TaskQuery(status=TaskStatus.PENDING, func_name=name, queue=queue, until=until, limit=_PAGE)
        found: list[TaskQuery] = []
        while True:
            page = await self._page(query)
            late = self._late_of(page)
            if late:
                found.append(query)
            if page.next_cursor is None or not (late or whole or not page.records):
                break
            query = replace(query, cursor=page.next_cursor)
        for query in reversed(found):
            # If one fails, the others are given back nevertheless.
            judging = [self._judge(task_id) for task_id in self._late_of(await self._page(query))]
            answers = await asyncio.gather(*judging, return_exceptions=True)
            if (failure := next(filter(None, answers), None)) is not None:
                raise failure

    def _late_of(self, page: TaskPage) -> list[str]:
        return [one.task_id for one in page.records if one.instance == POOL and self._is_late(one)]

    def _is_late(self, record: TaskRecord) -> bool:
        due = record.timeline[0].due_at
        return due is not None and due <= self._clock.now() and not missed(record.timeline)

    async def _judge(self, task_id: str) -> None:
        task = await self._pool.claim_one(task_id)
        if task is None:
            # Another instance has it, and judges it.
            return
        try:
            if task.record.cancel_requested:
                await self._stop_task(task, Reason.CANCELLED)
            elif self._is_late(task.record):
                await self._objectives.judge(task)
        finally:
            if task.phase is Phase.HELD:
                self._pool.share(task)
