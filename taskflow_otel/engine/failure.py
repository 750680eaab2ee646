"""What an exception of user code leaves in the record: texts that are capped, and cannot fail themselves."""

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
"""The cause itself, also where a class hides it behind a property of its own."""


class ChildTraceback(Exception):
    """The cause of an exception that came from another process: how that process described it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.stacktrace)
        self.failure = failure


def describe_failure(exc: BaseException) -> Failure:
    """Describe an exception, whatever its `str()` and its traceback do."""
    cause = _CAUSE.__get__(exc)
    if isinstance(cause, ChildTraceback):
        return replace(cause.failure, exception=exc)
    name = class_name(type(exc))
    try:
        # The frames of the engine and of the executor above the user's function say nothing to the user.
        stack = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except BaseException as broken:  # SystemExit from a `__str__` would end the event loop
        stack = f"<the traceback of {name} could not be formatted: {class_name(type(broken))}>"
    return Failure(text_of(exc), name, _cut_in_the_middle(stack), exc)


def _cut_in_the_middle(text: str) -> str:
    """Cut a stack trace in its middle: both the entry and the raise are worth reading."""
    if len(text) <= MAX_TEXT:
        return plain_text(text)
    half = MAX_TEXT // 2
    return f"{plain_text(text[:half])}\n… [{len(text) - 2 * half} characters cut]\n{plain_text(text[-half:])}"
