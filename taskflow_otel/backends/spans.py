"""The spans of attempts: an optional part of a backend."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class SpanStore(Protocol):
    """Stores the spans of each attempt beside its outcome; `AppendSpans` adds to it. Errors: those of a `Backend`.

    They are deleted with their task.
    """

    async def read(self, task_id: str) -> dict[int, str]:
        """What is stored of a task, by attempt; empty for a task that does not exist."""


@runtime_checkable
class KeepsSpans(Protocol):
    """A backend that stores the spans of attempts."""

    @property
    def span_store(self) -> SpanStore:
        """The store; it works while the backend is open."""
