"""A process that dies at a named moment, as in a power cut: for tests of what a task does when it runs again."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from enum import StrEnum
from typing import NoReturn, TypeVar

from taskflow_otel.backends.base import Applied, Backend, Change, Insert, Update
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.status import Transition

VARIABLE = "TASKFLOW_CRASH_AT"
B = TypeVar("B", bound=Backend)


class CrashPoint(StrEnum):
    """A moment in the life of a persisted task."""

    BEFORE_COMMIT = "before_commit"
    """The task was added, and is not stored: the client gets no answer, and the task never runs."""
    AFTER_COMMIT = "after_commit"
    """It is stored, and the client has no answer yet: the task runs, and the client may send it again."""
    BEFORE_START = "before_start"
    """An attempt is about to begin."""
    AFTER_START = "after_start"
    """The beginning of an attempt is stored; the function may have been entered."""
    BEFORE_OUTCOME = "before_outcome"
    """The function has run, and its outcome is not stored: if the task may run again, it runs a second time."""
    AFTER_OUTCOME = "after_outcome"
    """The outcome is stored."""


_OF_TRANSITION = {
    Transition.STARTED: (CrashPoint.BEFORE_START, CrashPoint.AFTER_START),
    Transition.SUCCEEDED: (CrashPoint.BEFORE_OUTCOME, CrashPoint.AFTER_OUTCOME),
    Transition.FAILED: (CrashPoint.BEFORE_OUTCOME, CrashPoint.AFTER_OUTCOME),
    Transition.RETRY_SCHEDULED: (CrashPoint.BEFORE_OUTCOME, CrashPoint.AFTER_OUTCOME),
}


def crash_points(backend: B, at: CrashPoint | str | None = None) -> B:
    """Let this process kill itself (SIGKILL) when it reaches a moment of a persisted task; return the backend.

    `at`: the moment; by default the variable `TASKFLOW_CRASH_AT`, and without it nothing happens. Give the result to
    `TaskManager(snapshot_backend=...)`. Raises `ConfigurationError` for a word that is no moment.
    """
    named = at or os.environ.get(VARIABLE)
    if not named:
        return backend
    if named not in list(CrashPoint):
        raise ConfigurationError(f"{named!r} is not a moment to crash at: {', '.join(CrashPoint)}")
    apply = backend.apply

    async def watched(changes: Sequence[Change]) -> list[Applied]:
        reached = {point for change in changes for point in _around(change)}
        if named in reached and named.startswith("before"):
            crash()
        results = await apply(changes)
        if named in reached:
            crash()
        return results

    backend.apply = watched  # type: ignore[method-assign]  # of this object alone
    return backend


def crash() -> NoReturn:
    """End this process at once, without any cleaning up; a task may call it too."""
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def _around(change: Change) -> tuple[CrashPoint, ...]:
    match change:
        case Insert(record) if record.persisted:
            return CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT
        case Update(record) if record.persisted and record.timeline:
            return _OF_TRANSITION.get(record.timeline[-1].transition, ())
        case _:
            return ()
