"""What all instances know of the pool: how much waits there, since when, and whether anybody claims it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from taskflow_otel.backends.pool import PoolDepth, PoolStore
from taskflow_otel.engine.queues import Queues
from taskflow_otel.model.board import Said
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_SHARE = 50
"""The time between two looks, in times that the last one took: 2 % of a connection."""


class PoolLoad(NamedTuple):
    """What waits in the pool for one shared queue."""

    queue: str
    tasks: int
    oldest_age: float
    """Seconds; 0 if nothing waits."""
    claimers: int | None
    """The living instances that claim its tasks; `None` before the first look."""
    claims: int
    """How many tasks this process has claimed to run."""


class PoolWatch(Service):
    """Reads the state of the shared queues every `interval` seconds, on each instance, so that each can tell of it.

    `said`: what each living instance says. `claims`: by queue, how many tasks this process has claimed.
    """

    def __init__(
        self,
        store: PoolStore,
        queues: Queues,
        said: Callable[[], Awaitable[Mapping[str, Said]]],
        claims: Mapping[str, int],
        clock: Clock,
        interval: float,
    ) -> None:
        super().__init__("pool-watch", interval, clock)
        self._store = store
        self._queues = queues
        self._said = said
        self._claims = claims
        self._depths: dict[str, PoolDepth] = {}
        self._claimers: dict[str, int] | None = None
        self._look_again = float("-inf")

    def waiting(self) -> list[str]:
        """The queues that had tasks in the pool at the latest look."""
        return list(self._depths)

    async def tick(self) -> None:
        """Look at the pool, unless the last look was slow: to count takes long where much waits."""
        began = self._clock.monotonic()
        if began < self._look_again:
            return
        await self._look()
        self._look_again = began + _SHARE * (self._clock.monotonic() - began)

    async def _look(self) -> None:
        names = [queue.name for queue in self._queues.all() if queue.shared]
        self._depths = await self._store.depth(names)
        said = (await self._said()).values()
        self._claimers = {
            name: sum(load.claimed for one in said if (load := one.queues.get(name)) is not None) for name in names
        }

    def loads(self) -> Iterator[PoolLoad]:
        """What the latest look has found, by queue. The age is that of now. Callable from any thread."""
        now = self._clock.now()
        for queue in self._queues.all():
            if queue.shared:
                depth, claimers = self._depths.get(queue.name), self._claimers
                yield PoolLoad(
                    queue.name,
                    0 if depth is None else depth.tasks,
                    0.0 if depth is None else _since(depth.oldest, now),
                    None if claimers is None else claimers.get(queue.name, 0),
                    self._claims.get(queue.name, 0),
                )


def _since(moment: datetime, now: datetime) -> float:
    # The clocks of two hosts differ.
    return max(timedelta(0), now - moment).total_seconds()
