"""What all instances know of the pool: how much waits there, since when, and whether anybody claims it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from taskflow_otel.backends.pool import PoolDepth, PoolStore
from taskflow_otel.engine.queues import Queues
from taskflow_otel.model.board import Said
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_SHARE = 50
"""The time between two looks, in times that the faster of the last two took: 2 % of a connection."""
_LONGEST = 60.0
"""The most seconds between two looks: what is told must not be older, and the requests to cancel tasks of the pool are
looked for while it has any."""
_PATIENCE = 10.0
"""Seconds for which a task of a queue that nobody claims waits before that is logged: workers may be starting."""
_UNDECLARED = 20
"""The most queues that this process does not declare of which it tells: each is a series of each metric."""


class PoolLoad(NamedTuple):
    """What waits in the pool for one shared queue, or for one that this process does not declare."""

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

    So it does with queues that this process does not declare and that have tasks in the pool: after a change of the
    code or of `TASKFLOW_QUEUES`, nobody may claim them any more.
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
        self._took = 0.0
        self._logged: set[str] = set()
        """The queues of which it is logged that nobody claims them, until someone does."""

    def waiting(self) -> list[str]:
        """The shared queues that had tasks in the pool at the latest look."""
        shared = {queue.name for queue in self._queues.all() if queue.shared}
        return [name for name in self._depths if name in shared]

    async def tick(self) -> None:
        """Look at the pool, unless the last looks were slow: to count takes long where much waits."""
        began = self._clock.monotonic()
        if began < self._look_again:
            return
        await self._look()
        before, self._took = self._took, self._clock.monotonic() - began
        # A backend that stood still once says nothing of how long it takes to count.
        self._look_again = began + min(_SHARE * min(before, self._took), _LONGEST)

    async def _look(self) -> None:
        shared = [queue.name for queue in self._queues.all() if queue.shared]
        own = {queue.name for queue in self._queues.all()}
        found = await self._store.depth(shared, others=True)
        foreign = sorted(found.keys() - own)[:_UNDECLARED]
        # Tasks of a queue that is declared here and not shared are claimed here.
        depths = {name: found[name] for name in (*shared, *foreign) if name in found}
        claimers = dict.fromkeys((*shared, *foreign), 0)
        for one in (await self._said()).values() if claimers else ():
            for name, load in one.queues.items():
                if name in claimers:
                    claimers[name] += load.claimed
        self._depths, self._claimers = depths, claimers
        self._log_unclaimed(depths, claimers)

    def _log_unclaimed(self, depths: Mapping[str, PoolDepth], claimers: Mapping[str, int]) -> None:
        now = self._clock.now()
        unclaimed = {name: depth for name, depth in depths.items() if not claimers[name]}
        self._logged &= unclaimed.keys()
        for name, depth in unclaimed.items():
            age = _since(depth.oldest, now)
            if name not in self._logged and age >= _PATIENCE:
                self._logged.add(name)
                logger.warning(
                    "%d tasks of queue %r wait in the pool, the oldest for %.0f s, and no living instance claims them: "
                    "start a process that declares this queue and claims from it (TASKFLOW_RUN=here or pool, "
                    "TASKFLOW_QUEUES), or cancel the tasks",
                    depth.tasks,
                    name,
                    age,
                )

    def loads(self) -> Iterator[PoolLoad]:
        """What the latest look has found, by queue. The age is that of now. Callable from any thread."""
        now, depths, claimers = self._clock.now(), self._depths, self._claimers
        own = {queue.name: queue.shared for queue in self._queues.all()}
        names = [name for name, shared in own.items() if shared]
        for name in (*names, *(name for name in depths if name not in own)):
            depth = depths.get(name)
            yield PoolLoad(
                name,
                0 if depth is None else depth.tasks,
                0.0 if depth is None else _since(depth.oldest, now),
                None if claimers is None else claimers.get(name, 0),
                self._claims.get(name, 0),
            )

    def unclaimed(self) -> list[str]:
        """The queues that had tasks in the pool at the latest look, and no living instance that claims them."""
        claimers = self._claimers or {}
        return [name for name in self._depths if not claimers.get(name)]


def _since(moment: datetime, now: datetime) -> float:
    # The clocks of two hosts differ.
    return max(timedelta(0), now - moment).total_seconds()
