"""Small services beside the tasks: requests from other instances, the fleet's changes, retention."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.clock import Clock
from taskflow_otel.engine.service import Service
from taskflow_otel.model.record import TaskRecord

logger = logging.getLogger("taskflow_otel.engine")

_DELETE_BATCH = 500
_DELETE_PAUSE = 0.05


class RemoteCancels(Service):
    """Carries out cancellations that other instances asked for."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        instance_id: Callable[[], str],
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        super().__init__("remote-cancels", interval, clock)
        self._backend = backend
        self._instance_id = instance_id
        self._cancel = cancel

    async def tick(self) -> None:
        """Look once, and cancel what was asked for."""
        for task_id in await self._backend.cancel_requests(self._instance_id()):
            await self._cancel(task_id)


class FleetWatch(Service):
    """Passes on what the tasks of the other instances do, while somebody watches."""

    _PAGE = 500
    _OVERLAP = timedelta(seconds=2)
    """Looked at again each time: another host's clock, or a slow commit, may place a change a little in the past."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        instance_id: Callable[[], str],
        watched: Callable[[], bool],
        tell: Callable[[TaskRecord], None],
    ) -> None:
        super().__init__("fleet-watch", interval, clock)
        self._backend = backend
        self._clock = clock
        self._instance_id = instance_id
        self._watched = watched
        self._tell = tell
        self._since: datetime | None = None
        self._told: dict[str, int] = {}

    async def tick(self) -> None:
        """Tell of each change since the last look once."""
        if not self._watched():
            self._since, self._told = None, {}
            return
        now = self._clock.now()
        since = self._since or now - self._OVERLAP
        records = await self._backend.changed_since(since, not_of=self._instance_id(), limit=self._PAGE)
        told: dict[str, int] = {}
        for record in records:
            # The length of the timeline tells one state of a task from the next.
            mark = len(record.timeline) * 2 + record.cancel_requested
            told[record.task_id] = mark
            if self._told.get(record.task_id) != mark or record.progress is not None:
                self._tell(record)
        self._told = told
        self._since = now - self._OVERLAP


class Cleaner(Service):
    """Deletes finished tasks older than the retention, in small batches, pausing between them."""

    def __init__(self, backend: Backend, clock: Clock, interval: float, retention: timedelta) -> None:
        super().__init__("cleaner", interval, clock)
        self._backend = backend
        self._clock = clock
        self._retention = retention

    async def tick(self) -> None:
        """Delete what has become too old."""
        await delete_history(self._backend, self._clock, self._clock.now() - self._retention)


async def delete_history(backend: Backend, clock: Clock, before: datetime) -> int:
    """Delete finished tasks that ended before a moment, in batches that leave room for others; return how many."""
    deleted = 0
    while True:
        count = await backend.delete_finished(before, _DELETE_BATCH)
        deleted += count
        if count < _DELETE_BATCH:
            return deleted
        await clock.sleep(_DELETE_PAUSE)


async def gather_all(stops: list[Awaitable[object]]) -> None:
    """Await several shutdown steps; one that fails is logged and does not keep the others from theirs."""
    for outcome in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(outcome, Exception):
            logger.error("a part could not be stopped cleanly: %s", outcome, exc_info=outcome)
