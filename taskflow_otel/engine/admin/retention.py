"""Deletes what is older than the retention of the administration."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_BATCH = 500
_PAUSE = 0.05


class Forgetting(Protocol):
    """A store with a retention: the audit, or bulk operations."""

    async def forget(self, before: datetime, limit: int) -> int:
        """Delete about `limit` rows that are older than a moment; return how many, 0 if nothing is left."""


class AdminCleaner(Service):
    """Deletes what is older than `retention`, in small batches with pauses between them."""

    def __init__(self, stores: Sequence[Forgetting], clock: Clock, interval: float, retention: timedelta) -> None:
        super().__init__("admin-cleaner", interval, clock)
        self._stores = stores
        self._clock = clock
        self._retention = retention

    async def tick(self) -> None:
        """Delete what is too old."""
        before = self._clock.now() - self._retention
        for store in self._stores:
            while await store.forget(before, _BATCH):
                await self._clock.sleep(_PAUSE)
