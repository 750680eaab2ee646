"""Deletes what is older than the retention of the administration."""

from __future__ import annotations

from datetime import timedelta

from taskflow_otel.backends.admin import AuditStore
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_BATCH = 500
_PAUSE = 0.05


class AdminCleaner(Service):
    """Deletes entries of the audit that are older than `retention`, in small batches with pauses between them."""

    def __init__(self, audit: AuditStore, clock: Clock, interval: float, retention: timedelta) -> None:
        super().__init__("audit-cleaner", interval, clock)
        self._audit = audit
        self._clock = clock
        self._retention = retention

    async def tick(self) -> None:
        """Delete what is too old."""
        before = self._clock.now() - self._retention
        while await self._audit.forget(before, _BATCH) == _BATCH:
            await self._clock.sleep(_PAUSE)
