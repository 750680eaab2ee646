"""The JSON of tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import ExecutorKind, LogLevel, Reason, Source
from taskflow_otel.wire.bodies import one_of
from taskflow_otel.wire.causes import AttemptFailureOut, CauseOut


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
