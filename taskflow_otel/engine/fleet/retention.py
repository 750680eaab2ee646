"""Deletes finished tasks, and figures of them, that are older than their retention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from taskflow_otel.backends.admin import FigureStore
from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.model.figures import KEPT, Span
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_DELETE_BATCH = 500
_DELETE_PAUSE = 0.05


class Cleaner(Service):
    """Deletes finished tasks, in small batches with pauses between them; as a service those older than `retention`."""

    def __init__(
        self, backend: Backend, clock: Clock, interval: float, retention: timedelta | None, tasks: LiveTasks, life: Life
    ) -> None:
        super().__init__("cleaner", interval, clock)
        self._backend = backend
        self._clock = clock
        self.retention = retention
        """`None`: forever."""
        self._tasks = tasks
        self.life = life

    async def tick(self) -> None:
        """Delete the tasks that are too old."""
        if self.retention is not None:
            await self.delete(self._clock.now() - self.retention)

    @at_home
    async def delete(self, before: datetime) -> int:
        """Delete the tasks of all instances that ended before a moment; return how many."""
        deleted = 0
        while True:
            count = await self._backend.delete_finished(before, _DELETE_BATCH)
            deleted += count
            self._tasks.forget_finished(before)
            if count < _DELETE_BATCH:
                return deleted
            await self._clock.sleep(_DELETE_PAUSE)

    @at_home
    async def delete_tasks(self, task_ids: Sequence[str]) -> list[str]:
        """Delete those of these tasks that have finished, of all instances; return the ids of the deleted ones."""
        deleted: list[str] = []
        for start in range(0, len(task_ids), _DELETE_BATCH):
            some = await self._backend.delete_tasks(task_ids[start : start + _DELETE_BATCH])
            self._tasks.forget_deleted(some)
            deleted += some
        return deleted


class FigureCleaner(Service):
    """Deletes the figures of slots that are older than `KEPT`."""

    def __init__(self, store: FigureStore, clock: Clock, interval: float) -> None:
        super().__init__("figure-cleaner", interval, clock)
        self._store = store
        self._clock = clock

    async def tick(self) -> None:
        """Delete what is too old."""
        for span in Span:
            before = span.slot(self._clock.now() - KEPT[span])
            while await self._store.forget(span, before, _DELETE_BATCH):
                await self._clock.sleep(_DELETE_PAUSE)
