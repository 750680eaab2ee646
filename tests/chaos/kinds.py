"""The types of task that the storm adds, as both the app that runs them and the check of its books know them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One task type. `share`: its weight in the load."""

    name: str
    share: int
    requeue: bool = False
    retries: int = 0
    persisted: bool = True
    keyed: bool = False
    """Added with an idempotency key, several times at once on several instances, and again later."""
    fails: bool = False
    """Added only by requests that fail by themselves afterwards, so that it never runs."""
    delay: float = 0.0
    """Seconds: no instance enters it earlier."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("plain", 6),
        Kind("slow", 3),
        Kind("again", 4, requeue=True),
        Kind("flaky", 3, retries=3),
        Kind("doomed", 2, requeue=True, retries=2),
        Kind("threaded", 3, requeue=True),
        Kind("eager", 2, requeue=True),
        Kind("once", 3, keyed=True),
        Kind("history", 2, persisted=False),
        # Longer than the lease: many of them are taken over while they wait.
        Kind("delayed", 3, delay=3.0),
        Kind("process", 1, requeue=True),
        Kind("failing", 2, fails=True),
        # Its arguments, key, tags, log, progress and error are what no database takes as it is.
        Kind("odd", 1),
        Kind("large", 1),
    )
}
