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
    )
}
