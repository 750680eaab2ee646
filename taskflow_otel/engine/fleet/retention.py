"""Deletes finished tasks that are older than the retention."""

from __future__ import annotations

from datetime import datetime, timedelta

from taskflow_otel.backends.base import Backend
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_DELETE_BATCH = 500
_DELETE_PAUSE = 0.05


class Cleaner(Service):
    """Deletes finished tasks older than the retention, in small batches with pauses between them."""

    def __init__(self, backend: Backend, clock: Clock, interval: float, retention: timedelta) -> None:
        super().__init__("cleaner", interval, clock)
        self._backend = backend
        self._clock = clock
        self._retention = retention

    async def tick(self) -> None:
        """Delete the tasks that are too old."""
        await delete_history(self._backend, self._clock, self._clock.now() - self._retention)


async def delete_history(backend: Backend, clock: Clock, before: datetime) -> int:
    """Delete finished tasks that ended before a moment, in small batches; return how many."""
    deleted = 0
    while True:
        count = await backend.delete_finished(before, _DELETE_BATCH)
        deleted += count
        if count < _DELETE_BATCH:
            return deleted
        await clock.sleep(_DELETE_PAUSE)
