"""The time limits of tasks in the pool, which nobody owns: the first instance that sees one pass judges it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import islice
from typing import Protocol

from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.objectives import ObjectiveWatch
from taskflow_otel.engine.phase import Phase
from taskflow_otel.model.objective import missed
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import NEVER_DUE, TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_PAGE = 100
_WHOLE = 60.0
"""Seconds between two rounds that read everything; more where that takes long."""
_SHARE = 50
"""The time between them, in times that the last one took."""
_MOST = 10_000
"""Ids that are kept of tasks that were given to the pool after a delay, and of late ones."""


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
    round finds them. A task that was delayed on purpose is late after others of its age: the instance that gave it to
    the pool remembers when (`remember`). About once a minute a round reads all of them: that instance may have ended.

    Late tasks in the pool are counted by the instance that has written the line; if it has ended, by the first of the
    living.

    `waiting`: the queues that have tasks in the pool. `pool`: the `Pool`. `alive`: the ids of the living instances.
    """

    def __init__(
        self,
        objectives: ObjectiveWatch,
        page: Callable[[TaskQuery], Awaitable[TaskPage]],
        read: Callable[[Sequence[str]], Awaitable[Mapping[str, TaskRecord]]],
        alive: Callable[[], Awaitable[Collection[str]]],
        membership: Membership,
        waiting: Callable[[], Collection[str]],
        pool: Lends,
        stop: Callable[[LiveTask, Reason], Awaitable[None]],
        clock: Clock,
        interval: float,
    ) -> None:
        super().__init__("pool-objectives", interval, clock)
        self._objectives = objectives
        self._page = page
        self._read = read
        self._alive = alive
        self._membership = membership
        self._waiting = waiting
        self._pool = pool
        self._stop_task = stop
        self._clock = clock
        self._whole_at = clock.monotonic() + _WHOLE
        self._delayed: list[tuple[datetime, str]] = []
        """When tasks that this instance gave to the pool after a delay are late, as a heap, and their ids."""
        self._late: dict[str, str] = {}
        """The names of the late tasks in the pool that this instance counts, by their ids."""
        self._coming: dict[str, asyncio.Task[None]] = {}
        """Those of them that this instance is giving back to the pool."""
        self._away: set[str] = set()
        """Those of them that an instance had when last read: it runs them, or only looks, as this one does."""
        self._counting = ""
        """The id under which it counts them."""
        self._living: Collection[str] = ()

    def remember(self, record: TaskRecord) -> None:
        """This instance has given a task to the pool."""
        due = record.timeline[0].due_at
        if record.run_at is None or due is None or due >= NEVER_DUE or missed(record.timeline):
            return
        if len(self._delayed) < _MOST:
            heappush(self._delayed, (due, record.task_id))

    def overdue(self) -> Mapping[str, int]:
        """How many late tasks in the pool this instance counts, by the name of their type. Callable from any thread."""
        away = self._away.copy()
        return Counter([name for task_id, name in list(self._late.items()) if task_id not in away])

    async def tick(self) -> None:
        """Judge what is late."""
        began = self._clock.monotonic()
        whole = began >= self._whole_at
        if self._counting != (own := self._membership.instance.instance_id):
            # Those that it has judged under its former id are counted by the first of the living.
            self._counting = own
            self._late.clear()
            self._coming.clear()
            self._away.clear()
        await self._forget_gone()
        self._living = await self._alive() if whole else ()
        await self._judge_delayed()
        for queue in self._waiting():
            for name, slo in self._objectives.declared().items():
                if slo.within_seconds is not None:
                    await self._sweep(queue, name, slo.within_seconds, whole=whole)
        if whole:
            now = self._clock.monotonic()
            self._whole_at = now + max(_WHOLE, _SHARE * (now - began))

    async def _judge_delayed(self) -> None:
        now = self._clock.now()
        due: list[tuple[datetime, str]] = []
        while self._delayed and self._delayed[0][0] <= now and len(due) < _PAGE:
            due.append(heappop(self._delayed))
        try:
            await self._judge_all([task_id for _, task_id in due])
        except BaseException:
            # One that was judged already, or that someone has, does no harm.
            for one in due:
                heappush(self._delayed, one)
            raise

    async def _forget_gone(self) -> None:
        """Count no late task any more that has left the pool; of many, a part in each round."""
        for task_id in [task_id for task_id, coming in self._coming.items() if coming.done()]:
            del self._coming[task_id]
        # One that is on its way back belongs to this instance still.
        ids = [task_id for task_id in islice(self._late, _PAGE) if task_id not in self._coming]
        records = await self._read(ids) if ids else {}
        for task_id in ids:
            name, record = self._late.pop(task_id, None), records.get(task_id)
            was_away = task_id in self._away
            self._away.discard(task_id)
            if name is None or record is None or record.status.finished:
                continue
            if record.instance != POOL:
                if was_away:
                    continue
                self._away.add(task_id)
            # To the end of the line.
            self._late[task_id] = name

    async def _sweep(self, queue: str, name: str, within: float, *, whole: bool) -> None:
        until = self._clock.now() - timedelta(seconds=within)
        query = TaskQuery(status=TaskStatus.PENDING, func_name=name, queue=queue, until=until, limit=_PAGE)
        found: list[TaskQuery] = []
        while True:
            page = await self._page(query)
            late = self._late_of(page)
            if late:
                found.append(query)
            if whole:
                self._count(page.records)
            if page.next_cursor is None or not (late or whole or not page.records):
                break
            query = replace(query, cursor=page.next_cursor)
        for query in reversed(found):
            await self._judge_all(self._late_of(await self._page(query)))

    async def _judge_all(self, task_ids: Sequence[str]) -> None:
        # If one fails, the others are given back nevertheless.
        answers = await asyncio.gather(*map(self._judge, task_ids), return_exceptions=True)
        if (failure := next(filter(None, answers), None)) is not None:
            raise failure

    def _count(self, records: Sequence[TaskRecord]) -> None:
        """Count the late ones that nobody else counts."""
        for record in records:
            if record.instance != POOL or len(self._late) >= _MOST:
                continue
            by = self._judged_by(record)
            heir = by is not None and by not in self._living and self._counting == min(self._living, default="")
            if by == self._counting or heir:
                self._late[record.task_id] = record.func_name

    @staticmethod
    def _judged_by(record: TaskRecord) -> str | None:
        """The instance that has written that the task is late."""
        return next((one.instance for one in record.timeline if one.transition is Transition.OBJECTIVE_MISSED), None)

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
                # Another instance may have judged it since it was read.
                counted = self._judged_by(task.record) == self._counting and len(self._late) < _MOST
                if counted:
                    self._late[task_id] = task.record.func_name
                self._pool.share(task)
                if counted and task.arrival is not None:
                    self._coming[task_id] = task.arrival
