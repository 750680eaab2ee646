"""The JSON of queues, schedules and instances, and of what one instance says of itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceKind, InstanceState
from taskflow_otel.wire.bodies import one_of


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
