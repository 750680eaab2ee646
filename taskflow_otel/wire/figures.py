"""The JSON of numbers over many tasks: counts, objectives, the overview."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


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
