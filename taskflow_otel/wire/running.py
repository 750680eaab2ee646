"""The JSON of the tasks that run now."""

from __future__ import annotations

from pydantic import BaseModel, Field

from taskflow_otel.wire.tasks import TaskOut


class RunningOut(BaseModel):
    """The tasks that run now on all instances, those that have run longest first."""

    tasks: list[TaskOut]
    total: int = Field(description="How many run.")
    exact: bool = Field(description="False: more run than were read, so `total` is a lower bound.")
    p95_seconds: dict[str, float] = Field(
        description="For each type among them with at least 20 successes within the last 24 hours: the run time that "
        "95 % of these did not exceed."
    )
