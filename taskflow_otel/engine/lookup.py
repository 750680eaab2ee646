"""Read access to tasks: those of this process in their current state, those of all instances in their stored state."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from taskflow_otel.backends.admin import KeepsFigures
from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.failures import KeepsFailures, Occurrences
from taskflow_otel.backends.pool import KeepsPool, PoolDepth
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.losses import PREFIX, load_loss
from taskflow_otel.engine.patience import Patience
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.span_book import SpanBook
from taskflow_otel.errors import BackendError, TaskNotFoundError
from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.model.options import seconds
from taskflow_otel.model.query import FailureGroups, Instance, Loss, TaskCounts, TaskPage, TaskQuery, Trend
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.spans import KeptTrace
from taskflow_otel.runtime.clock import Clock

_FLUSH_BEFORE_READ = 1.0
_LOGS_PATIENCE = 2.0
# A module-level name: until Python 3.12, the lookup of an enum member takes as long as a call.
_GONE = Phase.GONE
_POLL = 0.2
"""Seconds between two looks at a task that another instance runs."""


class Lookup:
    """Reads tasks. Every returned record is a copy."""

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        tasks: LiveTasks,
        clock: Clock,
        life: Life,
        patience: Patience,
        spans: SpanBook,
    ) -> None:
        self._backend = backend
        self._spans = spans
        self._ledger = ledger
        self._tasks = tasks
        self._clock = clock
        self._patience = patience
        self.life = life

    @at_home
    async def get(self, task_id: str) -> TaskRecord:
        """A snapshot of one task; raises `TaskNotFoundError`."""
        live = self._tasks.live(task_id)
        if live is not None:
            return live.record.copy()
        stored = await self._patience.wait_for(self._backend.get(task_id))
        if stored is None or not stored.status.finished:
            # It may have finished here, with its history not written yet.
            record = self._tasks.record(task_id)
            if record is not None:
                return record.copy()
        if stored is None:
            raise TaskNotFoundError(task_id)
        return stored

    @at_home
    async def get_all(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Snapshots of the tasks among these that exist, by id."""
        found = {live.id: live.record.copy() for task_id in task_ids if (live := self._tasks.live(task_id)) is not None}
        missing = [task_id for task_id in task_ids if task_id not in found]
        stored = await self._patience.wait_for(self._backend.get_all(missing))
        for task_id in task_ids:
            if task_id in found:
                continue
            record = stored.get(task_id)
            if record is None or not record.status.finished:
                # It may have finished here, with its history not written yet.
                here = self._tasks.record(task_id)
                record = record if here is None else here.copy()
            if record is not None:
                found[task_id] = record
        return found

    @at_home
    async def get_with_logs(self, task_id: str) -> TaskRecord:
        """A snapshot of one task with its log; raises `TaskNotFoundError`.

        A live task is answered without its log while the backend does not answer.
        """
        record = await self.get(task_id)
        live = self._tasks.live(task_id)
        if live is not None and live.log_count == record.attempt == 0:
            # In its first attempt nobody else can have logged for it.
            record.logs = []
            return record
        with suppress(BackendError, TimeoutError):
            async with asyncio.timeout(_LOGS_PATIENCE):
                record.logs = await self.logs(task_id)
        return record

    @at_home
    async def logs(self, task_id: str) -> list[LogEntry]:
        """The log of one task, in order; empty for a task that does not exist."""
        await self._flush()
        return await self._patience.wait_for(self._backend.logs(task_id))

    @at_home
    async def spans(self, task_id: str) -> KeptTrace:
        """What is kept of the spans of one task; nothing for a task that does not exist."""
        await self._flush()
        return await self._patience.wait_for(self._spans.read(task_id))

    @at_home
    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of the tasks of all instances, newest first."""
        await self._flush()
        page = await self._patience.wait_for(self._backend.page(query))
        ahead = {
            stored.task_id: here
            for stored in page.records
            if (here := self._tasks.record(stored.task_id)) is not None and _is_ahead(here, stored)
        }
        if not ahead:
            return page
        # The history of a slow backend is behind what `get` and the live stream show.
        shown = [ahead[stored.task_id].copy() if stored.task_id in ahead else stored for stored in page.records]
        return replace(page, records=[one for one in shown if query.status in (None, one.status)])

    @at_home
    async def counts(self, query: TaskQuery) -> TaskCounts:
        """Counts of the tasks of all instances."""
        await self._flush()
        return await self._patience.wait_for(self._backend.counts(query))

    @at_home
    async def figures(
        self,
        span: Span,
        first: int,
        last: int,
        *,
        by_name: bool = False,
        kinds: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Figure] | None:
        """What finished on all instances in these slots; `None` if the backend does not keep figures."""
        if not isinstance(self._backend, KeepsFigures):
            return None
        await self._flush()
        read = self._backend.figure_store.read(span, first, last, by_name=by_name, kinds=kinds, names=names)
        return await self._patience.wait_for(read)

    @at_home
    async def counted_since(self, span: Span) -> int | None:
        """The oldest slot with figures; `None` without any, and if the backend does not keep them."""
        if not isinstance(self._backend, KeepsFigures):
            return None
        return await self._patience.wait_for(self._backend.figure_store.oldest(span))

    @at_home
    async def failure_groups(self, query: TaskQuery, trend: Trend) -> FailureGroups | None:
        """The groups of failures of all instances; `None` if the backend does not count them."""
        if not isinstance(self._backend, KeepsFailures):
            return None
        await self._flush()
        return await self._patience.wait_for(self._backend.failure_store.groups(query, trend))

    @at_home
    async def occurrences(
        self, fingerprints: Collection[str], first: int, last: int, seconds: int
    ) -> Occurrences | None:
        """When the tasks of these groups ended; `None` if the backend does not count them."""
        if not isinstance(self._backend, KeepsFailures):
            return None
        read = self._backend.failure_store.occurrences(fingerprints, first, last, seconds)
        return await self._patience.wait_for(read)

    @at_home
    async def in_pool(self, queues: Collection[str]) -> dict[str, PoolDepth]:
        """What waits in the pool, by queue: for these queues, and for any other that has tasks there."""
        if not isinstance(self._backend, KeepsPool):
            return {}
        return await self._patience.wait_for(self._backend.pool_store.depth(queues, others=True))

    @at_home
    async def instances(self) -> list[Instance]:
        """All instances that share the backend."""
        return await self._patience.wait_for(self._backend.instances())

    @at_home
    async def losses(self) -> dict[str, Loss]:
        """What the dead instances left behind, by their ids."""
        stored = await self._patience.wait_for(self._backend.settings(PREFIX))
        return {key.removeprefix(PREFIX): load_loss(text) for key, text in stored.items()}

    async def _flush(self) -> None:
        if not self._patience.away():
            await self._ledger.flush(_FLUSH_BEFORE_READ)

    def end_of(self, task_id: str) -> asyncio.Future[TaskRecord] | None:
        """What a live task of this process will be when it has finished, or belongs to another instance.

        `None` for any other task, and away from the engine's event loop. This takes no coroutine: each wake-up of a
        caller that waits would go through it.
        """
        live = self._tasks.live(task_id)
        return _end_of(live) if live is not None and self.life.is_home() else None

    @at_home
    async def wait(self, task_id: str, timeout: float | None = None, *, left: bool = False) -> TaskRecord:
        """Return the task once it has finished on any instance. `left`: this process had it until a moment ago.

        Raises `TaskNotFoundError`, `TimeoutError` after `timeout` seconds, and `ConfigurationError` for a timeout that
        is not a number of seconds from 0 to a hundred years.
        """
        if timeout is not None:
            timeout = seconds("timeout", timeout)
        async with asyncio.timeout(timeout):
            while True:
                live = self._tasks.live(task_id)
                if live is not None:
                    if (end := _end_of(live)) is not None and (ended := await end).status.finished:
                        return ended.copy()
                    left = True
                # A task that finished here needs no look at the backend. One that has just left for the pool is more
                # likely to come back than to be finished elsewhere.
                record = self._tasks.record(task_id)
                if record is None and not left:
                    record = await self.get(task_id)
                if record is not None and record.status.finished:
                    return record.copy()
                left = False
                if self._tasks.live(task_id) is None:
                    await self._arrival(task_id)

    async def _arrival(self, task_id: str) -> None:
        """Return once the task is one of this process, and after `_POLL` at the latest."""
        come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not come.done():
                come.set_result(None)

        timer = self._clock.call_later(_POLL, end)
        try:
            with self._tasks.awaiting(task_id, end):
                await come
        finally:
            timer.cancel()


def _is_ahead(here: TaskRecord, stored: TaskRecord) -> bool:
    """Whether this process knows more of a task than is stored."""
    if here.token < stored.token:
        return False
    ended = here.status.finished and not stored.status.finished
    return ended or len(here.timeline) > len(stored.timeline)


def _end_of(task: LiveTask) -> asyncio.Future[TaskRecord] | None:
    """See `Lookup.end_of`; `None` if that has happened."""
    if task.phase is _GONE:
        return None
    end: asyncio.Future[TaskRecord] = asyncio.get_running_loop().create_future()
    if task.waiters is None:
        task.waiters = [end]
    else:
        task.waiters.append(end)
    return end
