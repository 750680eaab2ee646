"""The JSON of task types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from taskflow_otel.model.vocabulary import ExecutorKind
from taskflow_otel.wire.bodies import one_of
from taskflow_otel.wire.figures import ObjectiveOut, PointOut
from taskflow_otel.wire.tasks import TaskOut


class TypeHourOut(BaseModel):
    """The tasks of a type that finished in one whole hour."""

    since: datetime
    finished: int
    failed: int
    run_p95_seconds: float | None


class TypeFiguresOut(BaseModel):
    """The tasks of a type that finished in the window, on all instances, no matter when they were created.

    The numbers are null if the backend does not keep figures.
    """

    func_name: str
    is_declared: bool = Field(description="Whether the answering instance can run it.")
    finished: int | None
    success: int | None
    failed: int | None
    failure_share: float | None = Field(description="Share (0 to 1) of failures among successes and failures.")
    retries: int | None = Field(description="Further attempts of these tasks, after failed ones.")
    run_p50_seconds: float | None
    run_p95_seconds: float | None
    run_p99_seconds: float | None
    wait_p95_seconds: float | None = Field(
        description="From enqueueing to the first start, without a delay that was asked for."
    )
    run_seconds: float | None = Field(description="The sum of the run times of their last attempts.")
    last_hour: TypeHourOut | None = Field(
        description="The last whole hour. Null if the ledger has no figures from before its end."
    )
    week_before: TypeHourOut | None = Field(
        description="The same hour a week before. Null if it is not known: the ledger has no figures from before it."
    )
    change: float | None = Field(
        description="How many more finished in the last hour than a week before, as a share of those (0.5: half as "
        "many again; negative: fewer). Null if none did, or if it is not known."
    )
    slower: float | None = Field(description="The same for the 95th percentile of the run time.")


class TaskTypeOut(TypeFiguresOut):
    """A task type in the table."""

    run_share: float | None = Field(description="Share (0 to 1) of the run time of all types; null without any.")
    points: list[int] = Field(description="How many finished in each part of the window, the oldest first.")


class TaskTypesOut(BaseModel):
    """The task types, the one with the greatest share of the run time first."""

    window_seconds: float
    since: datetime = Field(description="The beginning of the window, on a whole minute.")
    until: datetime
    bucket_seconds: float = Field(description="The width of one of the `points`.")
    total: int = Field(description="How many types there are; at most 1,000 are in the answer.")
    types: list[TaskTypeOut]


class TypeOptionsOut(BaseModel):
    """How a task type is declared; durations are seconds."""

    retries: int
    delay: float
    backoff: float
    max_delay: float | None
    jitter: float
    retry_on: list[str] = Field(description="The names of the exception classes.")
    no_retry_on: list[str]
    timeout: float | None
    persist: bool
    requeue_on_interrupt: bool
    eager: bool
    priority: int | None
    queue: str | None
    executor: Annotated[str, one_of(ExecutorKind)]


class TypeDetailOut(TypeFiguresOut):
    """One task type."""

    window_seconds: float
    since: datetime
    until: datetime
    bucket_seconds: float = Field(description="The width of one of the `points`, and of a column of `heat`.")
    running: int = Field(description="Now, on all instances.")
    pending: int = Field(description="Now, on all instances.")
    retried: int | None = Field(description="How many of the finished ones had more than one attempt.")
    points: list[PointOut]
    bands: list[float] = Field(
        description="The run times in seconds with which the rows of `heat` begin, the shortest first. A row ends "
        "where the next one begins, the last one at twice its beginning."
    )
    heat: list[list[int]] = Field(
        description="For each part of the window, the oldest first, how many of the tasks that finished in it ran for "
        "as long as each of the `bands` says."
    )
    slowest: list[TaskOut] = Field(
        description="Those of the window that ran longest and are still stored, at most ten."
    )
    slowest_exact: bool = Field(description="False: not all tasks were read, so a slower one may be missing.")
    options: TypeOptionsOut | None = Field(description="Null if the answering instance does not declare the type.")
    objective: ObjectiveOut | None
