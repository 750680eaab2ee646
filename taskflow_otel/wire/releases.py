"""The JSON of releases."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class ReleaseOut(BaseModel):
    """A release of the application."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)

    release: str
    at: datetime = Field(description="When it was first seen: the start of the first instance that had it.")
