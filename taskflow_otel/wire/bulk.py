"""The JSON of work on many tasks, and of the operations that it becomes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from taskflow_otel.model.vocabulary import ItemOutcome, OperationKind, OperationStatus
from taskflow_otel.wire.bodies import one_of

Matched = Annotated[
    int,
    Field(description="How many tasks were selected, at most the limit; with `dry_run`, how many would be acted on."),
]
OperationId = Annotated[str | None, Field(description="The operation; null if tasks were only counted.")]
StatusOfOperation = Annotated[
    Annotated[str, one_of(OperationStatus)] | None,
    Field(
        description="`running`: it is worked off in the background, and `/operations/{operation_id}` has the results."
    ),
]


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
    matched: Matched
    dry_run: bool
    operation_id: OperationId = None
    status: StatusOfOperation = None


class BulkCancelOut(BaseModel):
    """The result of a bulk cancellation."""

    cancelled: list[str]
    skipped: list[SkippedOut]
    more: bool = Field(description="Whether more tasks match: repeat the request.")
    matched: Matched
    dry_run: bool
    operation_id: OperationId = None
    status: StatusOfOperation = None


class DeletedOut(BaseModel):
    """How many finished tasks were deleted."""

    deleted: int = Field(description="How many so far.")
    matched: int = Field(description="How many tasks were selected so far; with `dry_run`, up to 10,000 are counted.")
    more: bool = Field(description="Whether more tasks match.")
    dry_run: bool
    operation_id: OperationId = None
    status: StatusOfOperation = None


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
