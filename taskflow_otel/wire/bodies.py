"""The JSON of the API, as models (OpenAPI shows exactly what is sent): what its groups have in common."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field, WithJsonSchema

from taskflow_otel.model.vocabulary import Word


class Role(StrEnum):
    """`viewer` may read; `operator` may also retry, cancel, delete, pause and change limits."""

    VIEWER = "viewer"
    OPERATOR = "operator"


def one_of(kind: type[Word]) -> WithJsonSchema:
    """A text that is one of these words; a later version or a damaged row may contain another word."""
    words = "\n".join(f"* `{word}`: {word.meaning}" for word in kind)
    known = {"type": "string", "enum": [word.value for word in kind], "title": kind.__name__}
    return WithJsonSchema(
        {"anyOf": [known, {"type": "string"}], "title": kind.__name__, "description": f"{kind.__doc__}\n\n{words}"}
    )


class ErrorOut(BaseModel):
    """What went wrong (RFC 9457), as `application/problem+json`."""

    type: str = "about:blank"
    title: str = Field(description="The meaning of the status.")
    status: int
    detail: str = Field(description="What is wrong and what to do, in a sentence.")
    fields: list[str] = Field(default=[], description="The parameters and fields of the body that are wrong.")


class SessionOut(BaseModel):
    """The current user, and the settings of the page."""

    title: str
    actor: str | None
    role: Role
    csrf_token: str | None
    can_log_out: bool
    can_act: bool
    trace_url: str | None
    log_url: str | None = None
    poll_interval: float
    now: datetime = Field(description="The time of the answering instance.")
