"""The JSON of the trace of a task."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from taskflow_otel.model.vocabulary import BarKind
from taskflow_otel.wire.bodies import one_of


class BarOut(BaseModel, title="Bar"):
    """A wait of the task, an attempt, or a span before or inside one."""

    name: str
    kind: Annotated[str, one_of(BarKind)]
    attempt: int | None = Field(description="Zero-based; null for what came before the first attempt.")
    depth: int = Field(description="How deep it is inside others; each bar follows the one that it is inside of.")
    start: datetime
    offset: float = Field(description="Seconds from the start of the trace.")
    duration: float | None = Field(
        description="Seconds; null while it lasts, and for a span that had not ended when its attempt did."
    )
    span_id: str | None
    failed: bool
    error: str | None
    attributes: dict[str, str | int | float | bool] = Field(description="Those that are kept: no statements, no users.")


class TraceOut(BaseModel, title="Trace"):
    """The trace of a task: its waits and attempts from the ledger, with the spans that were kept of the attempts."""

    task_id: str
    trace_id: str | None = Field(description="That of the latest attempt; null without tracing.")
    sampled: bool | None = Field(description="Whether the latest attempt was sampled; null without tracing.")
    start: datetime
    duration: float = Field(description="Seconds from the start to the latest end, or until now.")
    bars: list[BarOut] = Field(description="In the order of the trace: each before those inside it.")
    dropped: int = Field(description="How many spans were not kept: the shortest ones of an attempt that had many.")
    unreadable: int = Field(
        description="Of how many attempts the spans cannot be read: they are encrypted with a key that this instance "
        "does not have."
    )
