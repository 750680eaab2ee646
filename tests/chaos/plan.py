"""What a storm is: its backend, its processes, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.crash_points import (
    CHILD_POINTS,
    IN_TRANSACTION,
    POINTS,
    RING_POINTS,
    STOPPED_IN_TRANSACTION,
    STOPPED_WITH_KEY,
    WEB_POINTS,
    WORKER_POINTS,
)
from tests.chaos.fleet import CELERY, CHILDREN, WEB
from tests.chaos.kinds import KINDS
from tests.servers import MariaDBServer, PostgresServer, RabbitServer, RedisServer, Server

SERVERS: Mapping[str, Callable[[Mapping[str, str] | None], Server]] = {
    "postgres": PostgresServer,
    "mysql": MariaDBServer,
    "redis": RedisServer,
}
POOLED = "pgbouncer"
"""PostgreSQL behind a pooler, which has trouble of its own."""
BACKENDS = ("sqlite", *SERVERS, POOLED)
BROKERS: Mapping[str, Callable[[], Server]] = {"redis": RedisServer, "rabbitmq": RabbitServer}
"""What carries the messages if Celery runs the tasks."""

KILL, PAUSE, SHORT_PAUSE, LEAVE = "at a random moment", "pause past the lease", "short pause", "drain"
CHILD = "a child at a random moment"
KILL_IN_DRAIN = "in a warm shutdown"
REST = "left in peace"
"""For as long as others may need to work as one who takes over."""
_ANYWHERE = (KILL, KILL, KILL, KILL, KILL, PAUSE, SHORT_PAUSE, LEAVE)
_TO_CELERY = (KILL, KILL, CHILD, CHILD, CHILD, CHILD, PAUSE, SHORT_PAUSE, LEAVE, KILL_IN_DRAIN)
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
    broker: str | None = None
    """What carries the messages, if the workers are Celery's."""
    twice: bool = False
    """Whether each message is sent twice."""
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
    last_work: float = 120.0
    """Seconds in which what the storm has left must end."""
    until_unexpected: bool = False
    """Whether the storm ends at the first answer that nobody may get."""

    def deck(self, kind: str) -> tuple[str, ...]:
        """The faults to draw from for one kind of process."""
        if self.faults is not None:
            return self.faults
        points = POINTS if not self.workers else WEB_POINTS if kind == WEB else WORKER_POINTS
        if self.broker is not None:
            points = CHILD_POINTS if kind == CELERY else (*points, *RING_POINTS)
        if self.backend in _TRANSACTIONAL:
            points = (*points, IN_TRANSACTION, IN_TRANSACTION, STOPPED_IN_TRANSACTION)
        return (*points, *(_TO_CELERY if kind == CELERY else _ANYWHERE))

    @property
    def arrangement(self) -> str:
        """Which processes there are."""
        if self.broker is None:
            return f"{self.members} web" + (f" + {self.workers} workers" if self.workers else "")
        twice = ", each message twice" if self.twice else ""
        return f"{self.members} web + {self.workers} Celery workers of {CHILDREN} children ({self.broker}{twice})"
