"""What the ledger can be asked, as plain data: a page of tasks, their counts, the instances that run them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """A filter over tasks. All given conditions must hold; `None` does not filter.

    `since` (inclusive) and `until` (exclusive) are about `created_at`. `tag` is `(key, value)`; a value of
    `None` matches any. `q` is a substring of the name, the error or the task id.
    `cursor` is the id of the last task of the page before.
    `count_limit` asks a page for its total, and bounds what is counted for it and for the counts: a backend that would
    have to look at more tasks than about so many answers with a lower bound instead. Without it a page has no total,
    and counts are of all the tasks that match.
    """

    status: TaskStatus | None = None
    func_name: str | None = None
    queue: str | None = None
    tag: tuple[str, str | None] | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    trace_id: str | None = None
    q: str | None = None
    limit: int = 100
    cursor: str | None = None
    count_limit: int | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks, newest first, and the cursor of the next page (`None` on the last).

    With fewer tasks than its limit, even none, and a cursor, the search has stopped at the number of tasks that the
    backend looks at for one page; the next page goes on from there.
    """

    records: list[TaskRecord]
    next_cursor: str | None
    total: int | None = None
    """How many tasks match, those of other pages included; `None` where `count_limit` did not ask for it."""
    total_exact: bool = True
    """`False`: at least `total` tasks match."""


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks there are in each state, and the sum that averages are made from."""

    by_status: dict[TaskStatus, int] = field(default_factory=dict)
    duration_sum: float = 0.0
    duration_count: int = 0
    exact: bool = True
    """`False`: of the tasks that match only the newest were counted; there are at least so many."""

    @property
    def total(self) -> int:
        """All tasks."""
        return sum(self.by_status.values())


@dataclass(frozen=True, slots=True)
class Instance:
    """One process that runs tasks, as the ledger knows it.

    `host` names the machine and the process-id namespace, so that equal hosts can look at each other's
    processes; `process_started` tells a process from a later one with the same id.
    """

    instance_id: str
    host: str
    pid: int
    process_started: str
    started_at: datetime
    heartbeat_at: datetime
    lease_seconds: float
    """Without a heartbeat for this long, the instance counts as dead."""
    state: str = InstanceState.ALIVE.value
    """One of `InstanceState`."""
