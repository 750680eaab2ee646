"""The spans of attempts, kept in the memory of this process."""

from __future__ import annotations

from taskflow_otel.backends.base import AppendSpans


class MemorySpanStore:
    """See `SpanStore`. `add` and `forget` are for its backend alone."""

    def __init__(self) -> None:
        self._texts: dict[str, dict[int, str]] = {}

    def add(self, spans: AppendSpans) -> None:
        """Keep the spans of an attempt."""
        self._texts.setdefault(spans.task_id, {}).setdefault(spans.attempt, spans.text)

    def forget(self, task_id: str) -> None:
        """The task is deleted."""
        self._texts.pop(task_id, None)

    async def read(self, task_id: str) -> dict[int, str]:
        """See `SpanStore`."""
        return dict(self._texts.get(task_id, {}))
