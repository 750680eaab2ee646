"""The states of a task, its transitions, and the table of legal transitions."""

from __future__ import annotations

from enum import StrEnum

from taskflow_otel.errors import IllegalTransitionError


class TaskStatus(StrEnum):
    """The state of a task. The API, the metrics and the ledger show these values."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    REJECTED = "rejected"

    finished: bool
    """Whether no further transition is possible."""


LIVE_STATUSES = frozenset({TaskStatus.PENDING, TaskStatus.RUNNING})
for _status in TaskStatus:
    # An attribute and not a property, because each change reads it several times.
    _status.finished = _status not in LIVE_STATUSES
FINISHED_STATUSES = frozenset(TaskStatus) - LIVE_STATUSES

# A task holds its idempotency key while it is in one of these states (`docs/guarantees.md`).
KEY_HOLDING_STATUSES = LIVE_STATUSES | {TaskStatus.SUCCESS}


class Transition(StrEnum):
    """What happened to a task. Each applied transition is one `LifecycleEvent`."""

    ENQUEUED = "enqueued"
    STARTED = "started"
    RETRY_SCHEDULED = "retry_scheduled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    RECOVERED = "recovered"
    REJECTED = "rejected"
    OBJECTIVE_MISSED = "objective_missed"


_P, _R = TaskStatus.PENDING, TaskStatus.RUNNING

TRANSITIONS: dict[tuple[TaskStatus | None, Transition], TaskStatus] = {
    (None, Transition.ENQUEUED): _P,
    (None, Transition.REJECTED): TaskStatus.REJECTED,
    (_P, Transition.STARTED): _R,
    (_P, Transition.CANCELLED): TaskStatus.CANCELLED,
    (_P, Transition.REJECTED): TaskStatus.REJECTED,
    # Taken over from a dead instance before it started: still pending, with a new owner.
    (_P, Transition.RECOVERED): _P,
    (_R, Transition.SUCCEEDED): TaskStatus.SUCCESS,
    (_R, Transition.FAILED): TaskStatus.FAILED,
    (_R, Transition.CANCELLED): TaskStatus.CANCELLED,
    (_R, Transition.INTERRUPTED): TaskStatus.INTERRUPTED,
    (_R, Transition.RETRY_SCHEDULED): _P,
    (_R, Transition.RECOVERED): _P,
    # The time limit of its objective has passed; for the task itself nothing changes.
    (_P, Transition.OBJECTIVE_MISSED): _P,
    (_R, Transition.OBJECTIVE_MISSED): _R,
}
"""`(status before, transition) -> status after`; `None` is a task that does not exist yet."""


def next_status(before: TaskStatus | None, transition: Transition) -> TaskStatus:
    """Return the status that follows, or raise `IllegalTransitionError` for a pair outside the table."""
    try:
        return TRANSITIONS[before, transition]
    except KeyError:
        state = "a task that does not exist yet" if before is None else f"a {before} task"
        raise IllegalTransitionError(f"{transition} is not possible for {state}") from None
