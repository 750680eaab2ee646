"""The spans of attempts in Redis; the script `apply` adds to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection


class RedisSpanStore:
    """See `SpanStore`: a hash for each task, from attempt to text."""

    def __init__(self, connection: Callable[[], Connection], tag: str) -> None:
        self._connection = connection
        self._tag = tag

    async def read(self, task_id: str) -> dict[int, str]:
        """See `SpanStore`."""
        stored = await self._connection().command("HGETALL", f"{self._tag}:spans:{task_id}")
        return {int(attempt): text for attempt, text in stored.items()}
