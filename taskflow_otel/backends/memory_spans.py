"""The spans of attempts, kept in the memory of this process."""

from __future__ import annotations

from taskflow_otel.backends.base import AppendSpans


class MemorySpanStore:
    """See `SpanStore`. `add` and `forget` are for its backend alone."""

    def __init__(self) -> None:
        # Most tasks have one attempt. A dictionary for each would take 170 bytes more.
        self._kept: dict[str, AppendSpans | dict[int, str]] = {}

    def add(self, spans: AppendSpans) -> None:
        """Keep the spans of an attempt."""
        known = self._kept.setdefault(spans.task_id, spans)
        if known is spans:
            return
        if not isinstance(known, dict):
            known = self._kept[spans.task_id] = {known.attempt: known.text}
        known.setdefault(spans.attempt, spans.text)

    def forget(self, task_id: str) -> None:
        """The task is deleted."""
        self._kept.pop(task_id, None)

    async def read(self, task_id: str) -> dict[int, str]:
        """See `SpanStore`."""
        known = self._kept.get(task_id, {})
        return dict(known) if isinstance(known, dict) else {known.attempt: known.text}
