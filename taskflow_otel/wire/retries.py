"""The JSON of a retry: other arguments for the new task, and the parameters that they are for."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class RetryIn(BaseModel):
    """What is different in the new task."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    arguments: dict[str, Any] = Field(
        default={},
        max_length=200,
        description="Other values for some parameters, by their names. Each must be what the annotation of its "
        "parameter says; all other arguments stay as they were.",
    )


class ParameterOut(BaseModel):
    """One parameter of a task's function."""

    name: str
    annotation: str | None = Field(description="As the source has it; null without one.")
    required: bool
    given: bool = Field(description="Whether the task has a stored argument for it; false where that is not shown.")
    value: str | None = Field(description="The stored argument as JSON text; null if it is missing, long, or hidden.")


class ArgumentsOut(BaseModel):
    """The parameters of a task's function, to run it again with other arguments."""

    parameters: list[ParameterOut]
    shown: bool = Field(description="Whether the stored arguments are shown here.")
    editable: bool = Field(description="Whether the instance that answers can run the task with other arguments.")
    why: str | None = Field(description="Why not; null if it can.")
