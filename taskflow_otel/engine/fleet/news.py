"""News from other processes, of the pool and of cancellations: this instance looks at once, not in its next round."""

from __future__ import annotations

import asyncio
import logging

from taskflow_otel.backends.pool import News, PoolBell
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_AGAIN = 1.0
"""Seconds until a bell is heard again after its connection broke; longer after each further failure."""


class PoolNews(Service):
    """Hears the bell of the pool, and passes on what it tells.

    Nothing depends on it but the wait of a task: without a bell, it is found by the next round of the pool.
    """

    def __init__(self, bell: PoolBell, news: News, clock: Clock) -> None:
        super().__init__("pool-news", _AGAIN, clock)
        self._bell = bell
        self._news = news
        self.hears: bool = False
        """Whether what comes into the pool tells of itself now."""

    async def tick(self) -> None:
        """Hear the bell until its connection breaks, or for good if none can be heard."""
        try:
            await self._bell.hear(News(self._given, self._news.cancelled))
        finally:
            self.hears = False
        self.count_failure()
        logger.warning(
            "the database sends no notifications here, probably because of a pooler in front of it (pgbouncer in "
            "transaction mode): what other processes add to shared queues or cancel is found once a second"
        )
        await asyncio.Event().wait()

    def _given(self) -> None:
        self.hears = True
        self._news.given()
