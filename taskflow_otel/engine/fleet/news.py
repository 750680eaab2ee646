"""News of the pool from other processes: this instance looks at once, and not only in its next round."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from taskflow_otel.backends.pool import PoolBell
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_AGAIN = 1.0
"""Seconds until a bell is heard again after its connection broke; longer after each further failure."""


class PoolNews(Service):
    """Hears the bell of the pool, and calls `look` at each ring.

    Nothing depends on it but the wait of a task: without a bell, it is found by the next round of the pool.
    """

    def __init__(self, bell: PoolBell, look: Callable[[], None], clock: Clock) -> None:
        super().__init__("pool-news", _AGAIN, clock)
        self._bell = bell
        self._look = look

    async def tick(self) -> None:
        """Hear the bell until its connection breaks, or for good if none can be heard."""
        await self._bell.hear(self._look)
        self.count_failure()
        logger.warning(
            "the database sends no notifications here, probably because of a pooler in front of it (pgbouncer in "
            "transaction mode): tasks of shared queues that other processes add are found once a second"
        )
        await asyncio.Event().wait()
