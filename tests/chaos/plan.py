"""What a storm is: its backend, its processes, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.crash_points import (
    IN_TRANSACTION,
    POINTS,
    STOPPED_IN_TRANSACTION,
    STOPPED_WITH_KEY,
    WEB_POINTS,
    WORKER_POINTS,
)
from tests.chaos.fleet import WEB
from tests.chaos.kinds import KINDS
from tests.servers import MariaDBServer, PostgresServer, RedisServer, Server

SERVERS: Mapping[str, Callable[[Mapping[str, str] | None], Server]] = {
    "postgres": PostgresServer,
    "mysql": MariaDBServer,
    "redis": RedisServer,
}
POOLED = "pgbouncer"
"""PostgreSQL behind a pooler, which has trouble of its own."""
BACKENDS = ("sqlite", *SERVERS, POOLED)


KILL, PAUSE, SHORT_PAUSE, LEAVE = "at a random moment", "pause past the lease", "short pause", "drain"
REST = "left in peace"
"""For as long as others may need to work as one who takes over."""
_ANYWHERE = (KILL, KILL, KILL, KILL, KILL, PAUSE, SHORT_PAUSE, LEAVE)
STOPS = frozenset({STOPPED_IN_TRANSACTION, STOPPED_WITH_KEY})
_TRANSACTIONAL = {"postgres", "mysql", POOLED}
"""Where one instance's open transaction must not hold up the others. Of one SQLite file there is a single writer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How hard the storm is. It ends after `kills` kills, or after `seconds`."""

    backend: str
    kills: int
    seconds: float
    seed: int = 0
    members: int = 2
    """Web processes."""
    workers: int = 0
    """Processes that work off what the web processes add; without any, these do all themselves."""
    clients: int = 8
    pace: float = 0.05
    """Seconds between two requests of one client."""
    faults: tuple[str, ...] | None = None
    """What happens to the members; by default everything. With none of it only the database has trouble."""
    shaken: bool = True
    """Whether the database has trouble."""
    pauses: tuple[float, float] = (1.2, 1.8)
    """Shortest and longest pause past the lease, in leases."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """The types of task that are added."""
    planted: str | None = None
    """The fault of `tests.chaos.planted` that the servers have."""
    until_unexpected: bool = False
    """Whether the storm ends at the first answer that nobody may get."""

    def deck(self, kind: str) -> tuple[str, ...]:
        """The faults to draw from for one kind of process."""
        if self.faults is not None:
            return self.faults
        points = POINTS if not self.workers else WEB_POINTS if kind == WEB else WORKER_POINTS
        if self.backend in _TRANSACTIONAL:
            points = (*points, IN_TRANSACTION, IN_TRANSACTION, STOPPED_IN_TRANSACTION)
        return (*points, *_ANYWHERE)

    @property
    def arrangement(self) -> str:
        """Which processes there are."""
        return f"{self.members} web" + (f" + {self.workers} workers" if self.workers else "")
