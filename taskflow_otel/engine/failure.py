"""What an exception of user code leaves in the record: texts that are capped, and cannot fail themselves."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace

from taskflow_otel.model.record import MAX_TEXT


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as text."""

    error: str
    error_type: str
    stacktrace: str | None
    exception: BaseException | None = None


class ChildTraceback(Exception):
    """The cause of an exception that came from another process: how that process described it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.stacktrace)
        self.failure = failure


def capped(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text`, cut to `limit` characters with a visible note of what is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit} characters cut]"


def error_type_name(exc: BaseException) -> str:
    """The fully qualified class name, bare for built-ins (semantic conventions, `error.type`)."""
    cls = type(exc)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def describe_failure(exc: BaseException) -> Failure:
    """Describe an exception, whatever its `str()` and its traceback do."""
    cause = exc.__cause__
    if isinstance(cause, ChildTraceback):
        return replace(cause.failure, exception=exc)
    name = error_type_name(exc)
    try:
        text = str(exc)
    except BaseException as broken:  # SystemExit from a `__str__` would end the event loop
        text = f"<str() of {name} raised {error_type_name(broken)}>"
    try:
        # The frames of the engine and of the executor above the user's function say nothing to the user.
        stack = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except BaseException as broken:  # as above
        stack = f"<the traceback of {name} could not be formatted: {error_type_name(broken)}>"
    return Failure(capped(storable(text)), name, _capped_middle(storable(stack)), exc)


def storable(text: str) -> str:
    """Databases refuse NUL in text, and UTF-8 refuses lone surrogates."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _capped_middle(text: str) -> str:
    """Cut a stack trace in its middle: both the entry and the raise are worth reading."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n… [{len(text) - 2 * half} characters cut]\n{text[-half:]}"
