"""What a database error means for the changes: one vocabulary, with a table of error codes for each dialect."""

from __future__ import annotations

from enum import StrEnum

from taskflow_otel.errors import BackendError, BackendUnavailableError


class Fault(StrEnum):
    """The cause of an error, and so the remedy."""

    PASSING = "passing"
    """The database, temporarily (starting, full, too many connections): the same changes are tried again."""
    CONNECTION = "connection"
    """This connection (broken, to a server that became read-only, confused by a pooler): it is discarded."""
    CONFLICT = "conflict"
    """A conflicting transaction: this one was rolled back, and is repeated at once."""
    HELD = "held"
    """Only some of the changes (a locked row, too large a statement): the others may succeed."""
    CHANGE = "change"
    """One of the changes, at every try."""
    SETUP = "setup"
    """Something that a person must repair (a missing table, a permission, a damaged file): all changes wait for it."""


def backend_error(fault: Fault, message: str, *, opening: bool = False, reason: str | None = None) -> BackendError:
    """The library's error for a fault; `reason` is used if a change is its cause.

    Something that a person must repair ends a start; later, while tasks run, the changes wait for the repair.
    """
    if fault is Fault.CHANGE or (fault is Fault.SETUP and opening):
        return BackendError(message, transient=False, reason=reason if fault is Fault.CHANGE else None)
    return BackendUnavailableError(message, divisible=fault is Fault.HELD)
