"""The JSON of why tasks and their attempts failed."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class AttemptFailureOut(BaseModel):
    """Why one attempt failed, or why the task was interrupted or rejected."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True, title="AttemptFailure")

    attempt: int
    fingerprint: str | None = Field(description="The same for failures of one kind; null if this was no problem.")
    error_type: str | None
    error: str | None = Field(description="The beginning of its text.")
    frames: list[str] = Field(description="The innermost frames of the own code: `file:line in function`.")
    retry_at: datetime | None = Field(description="When the next attempt was planned.")


class FrameOut(BaseModel):
    """One frame of a stack trace."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True, title="Frame")

    file: str
    line: int
    function: str
    own: bool = Field(description="Whether it is the own code, and not that of a library.")
    code: str | None


class CauseOut(BaseModel):
    """One of the exceptions of a stack trace."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True, title="Cause")

    error: str
    frames: list[FrameOut]
