"""Queries to the ledger and their results, as plain data: pages of tasks, counts, instances."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime

from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """A filter over tasks. All given conditions must hold; `None` does not filter.

    `since` (inclusive) and `until` (exclusive) apply to `created_at`; `ended_since` and `ended_until` apply to the end
    of finished tasks, and leave out the others. `tag` is `(key, value)`; the value `None` matches any. `q` is a
    substring of the name, the error or the task id; `func_name_prefix` is the beginning of the name, and `error` a
    substring of the error or its type. `min_duration` (inclusive) and `max_duration` (exclusive) apply to the run time
    of finished tasks in seconds, and leave out the others. `fingerprint` is that of the latest failure. `cursor` is the
    id of the last task of the previous page. With `count_limit`, a page has a total, and totals and counts are bounded:
    a backend that would have to read more than about `count_limit` tasks returns a lower bound. Without it a page has
    no total, and counts include all tasks that match.
    """

    status: TaskStatus | None = None
    func_name: str | None = None
    func_name_prefix: str | None = None
    queue: str | None = None
    tag: tuple[str, str | None] | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ended_since: datetime | None = None
    ended_until: datetime | None = None
    trace_id: str | None = None
    fingerprint: str | None = None
    error: str | None = None
    min_duration: float | None = None
    max_duration: float | None = None
    q: str | None = None
    limit: int = 100
    cursor: str | None = None
    count_limit: int | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks, newest first, and the cursor of the next page (`None` on the last).

    A page with a cursor may hold fewer tasks than its limit, or even no task: a backend reads only a bounded number of
    tasks for one page. The next page continues from there.
    """

    records: list[TaskRecord]
    next_cursor: str | None
    total: int | None = None
    """How many tasks match on all pages; `None` without `count_limit`."""
    total_exact: bool = True
    """`False`: at least `total` tasks match."""


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks are in each state, and the sum for the average run time."""

    by_status: dict[TaskStatus, int] = field(default_factory=dict)
    duration_sum: float = 0.0
    duration_count: int = 0
    exact: bool = True
    """`False`: only the newest tasks that match were counted; the numbers are lower bounds."""

    @property
    def total(self) -> int:
        """All tasks."""
        return sum(self.by_status.values())


@dataclass(frozen=True, slots=True)
class Trend:
    """The times by which a group of failures is new or rising: the last hour, and the day before it."""

    recent: datetime
    before: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Tasks whose latest failure has the same fingerprint."""

    fingerprint: str
    total: int
    """Those that ended with it: failed, interrupted or rejected."""
    open: int
    """Those of them that were not retried."""
    waiting: int
    """Those that wait for another attempt."""
    first_at: datetime | None
    """When the first of them ended; `None` if all of them are still waiting or running."""
    last_at: datetime | None
    recent: int
    """Those that ended since `Trend.recent`."""
    before: int
    """Those that ended from `Trend.before` until then."""
    newest: str
    """The id of one of the newest of those that ended."""


@dataclass(frozen=True, slots=True)
class FailureGroups:
    """Groups of failures, in no order."""

    groups: list[FailureGroup]
    exact: bool = True
    """`False`: not all tasks were read; the numbers are lower bounds."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What an instance left behind when it died."""

    interrupted: list[str] = field(default_factory=list)
    """Ids of tasks that were running, at most the first hundred."""
    interrupted_number: int = 0
    moved: int = 0
    """How many waiting tasks other instances have taken over."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One process that runs tasks, as stored in the ledger.

    `host` names the machine and the process-id namespace: instances of the same host can see each other's processes.
    `process_started` distinguishes a process from a later one with the same id.
    """

    instance_id: str
    host: str
    pid: int
    process_started: str
    started_at: datetime
    heartbeat_at: datetime
    lease_seconds: float
    """The instance counts as dead after this time without a heartbeat."""
    state: str = InstanceState.ALIVE.value
    """One of `InstanceState`."""


def sound(instance: Instance) -> Instance:
    """The instance itself; raises `ValueError` if one of its fields is not what it should be, as in a damaged row."""
    texts = (instance.instance_id, instance.host, instance.process_started, instance.state)
    if not all(isinstance(text, str) for text in texts) or not isinstance(instance.pid, int):
        raise ValueError("a field has another type than it should")
    if not isinstance(instance.lease_seconds, (int, float)) or not 0 < instance.lease_seconds < math.inf:
        raise ValueError(f"lease_seconds is {instance.lease_seconds!r}")
    return instance
