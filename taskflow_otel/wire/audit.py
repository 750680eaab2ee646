"""The JSON of the audit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from taskflow_otel.model.vocabulary import AuditOutcome
from taskflow_otel.wire.bodies import one_of


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
