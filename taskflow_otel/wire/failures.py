"""The JSON of groups of failures."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason, Trending
from taskflow_otel.wire.bodies import one_of
from taskflow_otel.wire.causes import CauseOut
from taskflow_otel.wire.tasks import TaskOut


class IgnoredOut(BaseModel):
    """Who ignores a group of failures."""

    by: str | None = Field(description="The user; null if no one was known.")
    at: datetime
    until: datetime
    reason: str | None = Field(description="Why, as the user gave it.")


class FailureGroupOut(BaseModel):
    """Tasks whose latest failure has the same fingerprint: their type, own frames and normalised error are the same.

    The numbers are those of all tasks that are stored.
    """

    fingerprint: str = Field(description="As a filter of the task list, it selects exactly the tasks of this group.")
    status: TaskStatus = Field(description="`failed`, `interrupted` or `rejected`.")
    reason: Annotated[str, one_of(Reason)] | None = Field(description="Why they were interrupted or rejected.")
    func_name: str
    error_type: str | None
    error: str = Field(description="The first line of the error, without ids, numbers and quoted values.")
    example: str = Field(description="The first line of the error of one of them.")
    count: int = Field(description="Tasks that ended with this failure.")
    open: int = Field(description="Those of them that were not retried.")
    waiting: int = Field(description="Tasks that wait for another attempt after it.")
    first_at: datetime
    last_at: datetime
    recent: int = Field(description="Those that ended within the last hour.")
    trend: Annotated[str, one_of(Trending)] | None = Field(description="Null if it is neither new nor rising.")
    ignored: IgnoredOut | None = Field(description="Who ignores it now; null if nobody does.")
    points: list[int] = Field(
        description="How many ended in each part of the window, the oldest first; empty if the backend does not tell."
    )


class FailuresOut(BaseModel):
    """Groups of failures."""

    since: datetime = Field(description="The beginning of the window of `points`.")
    bucket_seconds: int = Field(description="The width of one of the `points`.")
    total: int = Field(description="How many groups match, on all pages.")
    open: int = Field(description="How many tasks of these groups were not retried.")
    exact: bool = Field(description="False: not all tasks were read, so the numbers are lower bounds.")
    next_cursor: str | None
    groups: list[FailureGroupOut]


class FailureDetailOut(FailureGroupOut):
    """One group, with what one of its newest tasks shows."""

    since: datetime = Field(description="The beginning of the window of `points`.")
    bucket_seconds: int
    causes: list[CauseOut] = Field(description="The exceptions of the newest task, the first cause first.")
    stacktrace: str | None = Field(description="The same as text.")
    arguments: str | None = Field(description="Those of the newest task, as text; only where arguments are displayed.")
    samples: list[TaskOut] = Field(description="The newest tasks of the group.")
