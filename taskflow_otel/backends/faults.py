"""What an error of a database means for the changes that met it: one vocabulary, filled in by a table per dialect."""

from __future__ import annotations

from enum import StrEnum

from taskflow_otel.errors import BackendError, BackendUnavailableError


class Fault(StrEnum):
    """Who is at fault, and so what helps."""

    PASSING = "passing"
    """The database, for a while (starting, full, too many connections): the same changes are tried again."""
    CONNECTION = "connection"
    """This connection (broken, to a server that may no longer write, mixed up by a pooler): it is thrown away."""
    CONFLICT = "conflict"
    """Another transaction: this one was rolled back for it, and is repeated at once."""
    HELD = "held"
    """Something that a part of the changes needs (a locked row, too large a statement): the others may succeed."""
    CHANGE = "change"
    """One of the changes, whenever it is tried."""
    SETUP = "setup"
    """What a person has to put right (a missing table, a right, a damaged file): nothing is given up until then."""


def backend_error(fault: Fault, message: str, *, opening: bool = False) -> BackendError:
    """The error of the library that a fault is raised as.

    What a person has to put right ends a start; while tasks run, it is waited for.
    """
    if fault is Fault.CHANGE or (fault is Fault.SETUP and opening):
        return BackendError(message, transient=False)
    return BackendUnavailableError(message, divisible=fault is Fault.HELD)
