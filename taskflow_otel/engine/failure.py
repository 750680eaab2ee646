"""What the record keeps of an exception of user code: capped texts, made without raising."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import Any

from taskflow_otel.model.plain import class_name, plain_text, text_of
from taskflow_otel.model.record import MAX_TEXT


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as text."""

    error: str
    error_type: str
    stacktrace: str | None
    exception: BaseException | None = None


_CAUSE: Any = BaseException.__dict__["__cause__"]
"""The cause itself, even if the exception's class overrides `__cause__` with a property."""


class ChildTraceback(Exception):
    """The cause of an exception from another process: that process's description of it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.stacktrace)
        self.failure = failure


def describe_failure(exc: BaseException) -> Failure:
    """Describe an exception, even if its `str()` or its traceback fails."""
    cause = _CAUSE.__get__(exc)
    if isinstance(cause, ChildTraceback):
        return replace(cause.failure, exception=exc)
    name = class_name(type(exc))
    try:
        # The frames of the engine and the executor above the user's function do not help the user.
        stack = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except BaseException as broken:  # SystemExit from a `__str__` would end the event loop
        stack = f"<the traceback of {name} could not be formatted: {class_name(type(broken))}>"
    return Failure(text_of(exc), name, _cut_in_the_middle(stack), exc)


def _cut_in_the_middle(text: str) -> str:
    """Cut a stack trace in its middle: its start and its end are the useful parts."""
    if len(text) <= MAX_TEXT:
        return plain_text(text)
    half = MAX_TEXT // 2
    return f"{plain_text(text[:half])}\n… [{len(text) - 2 * half} characters cut]\n{plain_text(text[-half:])}"
