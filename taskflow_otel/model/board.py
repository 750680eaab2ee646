"""What each instance says of itself to the others: the load of its queues, and what went wrong with its schedules."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field


class QueueLoad(Struct, frozen=True, gc=False):
    """A queue of one instance."""

    concurrency: int | None = None
    max_size: int | None = None
    running: int = 0
    ready: int = 0
    delayed: int = 0
    ready_since: datetime | None = None
    """When the longest-waiting ready task became ready."""
    claimed: bool = True
    """If the queue is shared: the instance claims its tasks."""


class ScheduleTrouble(Struct, frozen=True, gc=False):
    """What went wrong with a schedule on one instance since its start."""

    missed: int = 0
    errors: int = 0
    last_error: str | None = None


class Said(Struct, frozen=True):
    """What one instance says."""

    queues: dict[str, QueueLoad] = field(default_factory=dict)
    schedules: dict[str, ScheduleTrouble] = field(default_factory=dict)
    """Only those with which something went wrong."""
    kind: str | None = None
    """What the process was started as, an `InstanceKind`; `None` if it is of an earlier version."""
    release: str | None = None
    """That of its application."""


class ReleaseMark(Struct, frozen=True, gc=False):
    """When a release of the application was first seen."""

    at: datetime
    """The start of the first instance that had it."""
    release: str


class Pause(Struct, frozen=True, gc=False):
    """Who paused a queue or a schedule, when and why; unknown if an earlier version or the application itself did."""

    by: str | None = None
    since: datetime | None = None
    reason: str | None = None
