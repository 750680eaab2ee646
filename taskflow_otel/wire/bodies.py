"""The JSON of the API, as models: OpenAPI shows exactly what is sent."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import (
    AuditOutcome,
    ExecutorKind,
    InstanceKind,
    InstanceState,
    ItemOutcome,
    LogLevel,
    OperationKind,
    OperationStatus,
    Reason,
    Source,
    Word,
)
from taskflow_otel.wire.causes import AttemptFailureOut, CauseOut


class Role(StrEnum):
    """`viewer` may read; `operator` may also retry, cancel, delete, pause and change limits."""

    VIEWER = "viewer"
    OPERATOR = "operator"


def one_of(kind: type[Word]) -> WithJsonSchema:
    """A text that is one of these words; a later version or a damaged row may contain another word."""
    words = "\n".join(f"* `{word}`: {word.meaning}" for word in kind)
    known = {"type": "string", "enum": [word.value for word in kind], "title": kind.__name__}
    return WithJsonSchema(
        {"anyOf": [known, {"type": "string"}], "title": kind.__name__, "description": f"{kind.__doc__}\n\n{words}"}
    )


class ErrorOut(BaseModel):
    """What went wrong (RFC 9457), as `application/problem+json`."""

    type: str = "about:blank"
    title: str = Field(description="The meaning of the status.")
    status: int
    detail: str = Field(description="What is wrong and what to do, in a sentence.")
    fields: list[str] = Field(default=[], description="The parameters and fields of the body that are wrong.")


class LogOut(BaseModel):
    """One line of a task's log."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)

    seq: int
    timestamp: datetime
    level: Annotated[str, one_of(LogLevel)]
    message: str
    attempt: int
    extra: dict[str, Any]


class TimelineOut(BaseModel):
    """One transition of a task."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)

    transition: Transition
    timestamp: datetime
    attempt: int
    instance: str
    reason: Annotated[str, one_of(Reason)] | None


class ProgressOut(BaseModel):
    """The progress that a running task reports."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)

    done: float
    total: float | None
    message: str | None


class TaskOut(BaseModel):
    """One task. Times are ISO 8601 in UTC, durations seconds.

    In a list, `logs` and `stacktrace` are null: request the task itself.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TaskRecord")

    task_id: str
    func_name: str
    status: TaskStatus
    created_at: datetime
    run_at: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    duration: float | None
    due_at: datetime | None = Field(
        default=None,
        description="By when it must have succeeded, by the objective of its type; null without a time limit.",
    )
    attempt: int = Field(description="Zero-based number of the current or latest attempt.")
    retries_used: int
    error: str | None
    error_type: str | None
    stacktrace: str | None = None
    logs: list[LogOut] | None = None
    tags: dict[str, str]
    idempotency_key: str | None
    source: Annotated[str, one_of(Source)]
    priority: int
    executor: Annotated[str, one_of(ExecutorKind)]
    queue: str
    instance: str
    trace_id: str | None
    span_id: str | None
    progress: ProgressOut | None
    reason: Annotated[str, one_of(Reason)] | None
    fingerprint: str | None = Field(
        default=None, description="That of its latest failure; null if it has not failed, or is over it."
    )
    timeline: list[TimelineOut]
    retry_of: str | None
    retried_by: str | None
    duplicate_of: str | None
    damage: str | None = Field(
        default=None, description="The parts of the stored task that cannot be read; null if it is not damaged."
    )
    args: list[Any] | None = Field(
        default=None, description="Only where arguments are displayed; null while encrypted."
    )
    kwargs: dict[str, Any] | None = Field(
        default=None, description="Only where arguments are displayed; null while encrypted."
    )


class TaskDetailOut(TaskOut):
    """One task with its log."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TaskDetail")

    cancel_requested: bool = False
    failures: list[AttemptFailureOut] = Field(
        default=[], description="Why its attempts failed: at most the newest 20, the latest last."
    )
    causes: list[CauseOut] = Field(default=[], description="The exceptions of `stacktrace`, the first cause first.")
    logs_dropped: int = Field(default=0, description="Number of log entries beyond the limit.")
    releases: dict[str, str] = Field(
        default={}, description="The releases of the application that the instances of the timeline had, where known."
    )
    arguments: str | None = Field(
        default=None,
        description="The arguments by the names of their parameters, as text for people: like JSON, with NaN, "
        "infinities and integers of any size as what they are. Only where arguments are displayed; null while "
        "encrypted.",
    )


class StatsOut(BaseModel):
    """The aggregate: one count for each state."""

    total: int
    pending: int
    running: int
    success: int
    failed: int
    cancelled: int
    interrupted: int
    rejected: int
    success_rate: float | None = Field(description="Share (0 to 1) of successes among successes and failures.")
    avg_duration_seconds: float | None
    exact: bool = Field(description="False: only the newest tasks that match were counted, so the numbers are bounds.")


class ObjectiveOut(BaseModel):
    """The objective of a task type, and what is left of its error budget. The numbers are those of all instances."""

    task: str
    success: float = Field(description="The share (0 to 1) of the tasks that must be good.")
    within_seconds: float | None = Field(description="In which a task must succeed to be good; null without a limit.")
    window_seconds: float = Field(description="The time over which the share is kept.")
    since: datetime | None = Field(
        description="From when on tasks are counted here: the first hour of the window, or the first one with a task. "
        "Null if the backend does not keep figures."
    )
    good: int | None
    bad: int | None = Field(description="Including the overdue ones.")
    overdue: int = Field(description="Tasks whose time limit has passed, and which have not ended.")
    good_share: float | None = Field(description="Share (0 to 1) of good tasks; null without any.")
    budget_left: float | None = Field(
        description="Share of the allowed bad tasks that is left: 1 if none was bad, 0 if as many were as may be, "
        "negative beyond that."
    )


class PointOut(BaseModel):
    """The tasks that finished in one part of the window, by outcome."""

    at: datetime
    success: int
    failed: int
    other: int = Field(description="Cancelled, interrupted and rejected ones.")


class OverviewOut(BaseModel):
    """The numbers at the top of the dashboard, for the whole fleet.

    All numbers of the window are about the tasks that finished in it, no matter when they were created. They are null
    if the backend does not keep figures.
    """

    window_seconds: float
    since: datetime = Field(description="The beginning of the window, on a whole minute.")
    until: datetime
    bucket_seconds: float
    finished: int | None
    finished_per_minute: float | None = Field(description="Since the beginning of the window, or since the first task.")
    failure_share: float | None = Field(description="Share (0 to 1) of failures among successes and failures.")
    running: int
    pending: int
    run_p50_seconds: float | None
    run_p95_seconds: float | None
    wait_p50_seconds: float | None
    wait_p95_seconds: float | None = Field(
        description="From enqueueing to the first start, without a delay that was asked for."
    )
    oldest_ready_age_seconds: float | None
    unclaimed_queues: list[str] = Field(description="Their tasks wait in the pool, and no living instance claims them.")
    points: list[PointOut]


class TaskIdsIn(BaseModel):
    """Which tasks to act on."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    task_ids: list[str] = Field(min_length=1, max_length=5_000)


class RetriedOut(BaseModel):
    """A task and the new one that retries it."""

    task_id: str
    new_task_id: str


class SkippedOut(BaseModel):
    """A task that was skipped, and why."""

    task_id: str
    reason: str


class BulkRetryOut(BaseModel):
    """The result of a bulk retry."""

    retried: list[RetriedOut]
    skipped: list[SkippedOut]
    more: bool = Field(description="Whether more tasks match: repeat the request.")
    matched: int = Field(
        description="How many tasks were selected, at most the limit; with `dry_run`, how many would be acted on."
    )
    dry_run: bool
    operation_id: str | None = Field(default=None, description="The operation; null if tasks were only counted.")
    status: Annotated[str, one_of(OperationStatus)] | None = Field(
        default=None,
        description="`running`: it is worked off in the background, and `/operations/{operation_id}` has the results.",
    )


class BulkCancelOut(BaseModel):
    """The result of a bulk cancellation."""

    cancelled: list[str]
    skipped: list[SkippedOut]
    more: bool = Field(description="Whether more tasks match: repeat the request.")
    matched: int = Field(
        description="How many tasks were selected, at most the limit; with `dry_run`, how many would be acted on."
    )
    dry_run: bool
    operation_id: str | None = Field(default=None, description="The operation; null if tasks were only counted.")
    status: Annotated[str, one_of(OperationStatus)] | None = Field(
        default=None,
        description="`running`: it is worked off in the background, and `/operations/{operation_id}` has the results.",
    )


class DeletedOut(BaseModel):
    """How many finished tasks were deleted."""

    deleted: int = Field(description="How many so far.")
    matched: int = Field(description="How many tasks were selected so far; with `dry_run`, up to 10,000 are counted.")
    more: bool = Field(description="Whether more tasks match.")
    dry_run: bool
    operation_id: str | None = Field(default=None, description="The operation; null if tasks were only counted.")
    status: Annotated[str, one_of(OperationStatus)] | None = Field(
        default=None,
        description="`running`: it is worked off in the background, and `/operations/{operation_id}` has the results.",
    )


class QueueShareOut(BaseModel):
    """A queue on one instance."""

    instance_id: str
    running: int
    ready: int
    delayed: int
    oldest_ready_age_seconds: float | None


class QueueOut(BaseModel):
    """One queue, on all living instances together."""

    name: str
    concurrency: int | None = Field(description="The most tasks that each instance runs at once.")
    max_size: int | None = Field(description="The most tasks that wait on each instance.")
    slots: int | None = Field(description="The most tasks that all instances together run at once.")
    running: int
    ready: int
    in_pool: int = Field(description="How many of the ready ones belong to no instance: those of a shared queue.")
    claimers: int = Field(description="Living instances that run its tasks. 0: what is in the pool waits for one.")
    delayed: int
    paused: bool
    paused_by: str | None = Field(description="Who paused it; null if it is not known.")
    paused_since: datetime | None
    paused_reason: str | None = Field(description="Why, if who paused it said so.")
    oldest_ready_age_seconds: float | None
    instances: list[QueueShareOut]


class QueueIn(BaseModel):
    """New limits of a queue; an omitted limit stays, null removes it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    concurrency: int | None = Field(default=None, ge=1)
    max_size: int | None = Field(default=None, ge=0)


class ScheduleOut(BaseModel):
    """A schedule, or a planned run."""

    name: str = Field(description="The name of the schedule, or the run key of a planned run.")
    kind: Literal["recurring", "once"]
    func_name: str
    rule: str
    timezone: str
    next_run: datetime | None = Field(description="Null while the schedule is paused.")
    last_run: datetime | None = Field(description="The latest firing time on any instance.")
    last_task_id: str | None
    paused: bool
    paused_by: str | None = Field(default=None, description="Who paused it; null if it is not known.")
    paused_since: datetime | None = None
    paused_reason: str | None = Field(default=None, description="Why, if who paused it said so.")
    catch_up: str | None
    overlap: str | None
    missed: int = Field(description="Firings that did not run, on all living instances since the start of each.")
    errors: int = Field(description="Errors while firing, on all living instances since the start of each.")
    last_error: str | None
    last_status: TaskStatus | None = Field(default=None, description="The state of the task of the latest firing.")
    failed_runs: int | None = Field(
        default=None,
        description="Tasks of this name, of any source, that failed or were interrupted within the last 24 hours; null "
        "if the backend does not keep figures.",
    )


class InstanceOut(BaseModel):
    """One process that runs tasks."""

    instance_id: str
    host: str
    pid: int
    state: Annotated[str, one_of(InstanceState)]
    started_at: datetime
    heartbeat_at: datetime
    lease_seconds: float
    answering: bool = Field(description="Whether this is the answering instance.")
    kind: Annotated[str, one_of(InstanceKind)] | None = Field(description="Of a living instance that says so.")
    release: str | None = Field(description="The release of its application; null if it has none, or has ended.")
    interrupted: list[str] = Field(
        description="Ids of the tasks that were running when this instance died, at most the first hundred."
    )
    interrupted_number: int
    moved: int = Field(description="How many waiting tasks of this dead instance others have taken over.")


class AuditOut(BaseModel):
    """One action through the administration, or an attempt that was refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True, title="AuditEntry")

    entry_id: str
    at: datetime
    actor: str | None = Field(description="The user; null if no one was known.")
    method: str | None = Field(description="How the user was known: `session`, `basic`, `token`, `open`, …")
    client: str | None = Field(description="The address of the client, as the application knows it.")
    action: str = Field(description="The route that was asked for, such as `retry-task`, or `login`.")
    route: str
    outcome: Annotated[str, one_of(AuditOutcome)]
    status: int = Field(description="The status of the answer.")
    target: str | None = Field(description="The queue, schedule, user or filter that the action was about.")
    task_id: str | None
    operation_id: str | None = Field(description="The bulk operation, which has the ids of all its tasks.")
    reason: str | None = Field(description="Why, as the user gave it.")
    detail: str | None = Field(description="What happened, or why it was refused.")
    instance: str
    times: int = Field(description="How many refused attempts this entry is about.")


class OperationOut(BaseModel):
    """One bulk operation."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True, title="Operation")

    operation_id: str
    kind: Annotated[str, one_of(OperationKind)]
    status: Annotated[str, one_of(OperationStatus)]
    created_at: datetime
    ended_at: datetime | None
    actor: str | None = Field(description="The user; null if no one was known.")
    reason: str | None = Field(description="Why, as the user gave it.")
    filter: str | None = Field(description="The query string that selected the tasks; null if their ids were given.")
    total: int = Field(description="The tasks so far; while a filter is being read, more may be added.")
    done: int = Field(description="How many of them have a result.")
    succeeded: int = Field(description="How many of these were done, and not refused or failed.")
    owner: str | None = Field(description="The instance that works it off.")
    error: str | None = Field(description="Why it ended before each task had a result.")


class OperationItemOut(BaseModel):
    """One task of a bulk operation."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True, title="OperationItem")

    seq: int = Field(description="Its position, from 0.")
    task_id: str
    outcome: Annotated[str, one_of(ItemOutcome)] | None = Field(description="Null before the task has a result.")
    new_task_id: str | None = Field(
        description="The retry; if the task was refused because of a retry that was there already, its id."
    )
    detail: str | None = Field(description="Why it was refused or failed.")


class HealthOut(BaseModel):
    """Whether the instance is ready, and if not, why."""

    status: Literal["ok", "unavailable"]
    reasons: list[str]
    instance: str


class ProbeOut(BaseModel):
    """Yes or no, for a probe."""

    status: Literal["ok", "unavailable"]


class TickOut(BaseModel):
    """What a round of everything that is due has done."""

    started: int
    """Attempts that were started."""
    left: int
    """Tasks that still run or wait for a slot."""


class SessionOut(BaseModel):
    """The current user, and the settings of the page."""

    title: str
    actor: str | None
    role: Role
    csrf_token: str | None
    can_log_out: bool
    can_act: bool
    trace_url: str | None
    log_url: str | None = None
    poll_interval: float
    now: datetime = Field(description="The time of the answering instance.")
