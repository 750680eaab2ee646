"""The figures of finished tasks, kept in the memory of this process."""

from __future__ import annotations

from collections.abc import Collection

from taskflow_otel.model.figures import Figure, FigureTally, Span
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.runtime.owned_tasks import in_slices

_AT_ONCE = 2_000

Sums = dict[tuple[str, str, int], list[int]]
"""Tasks and microseconds by name, kind and bucket."""


class MemoryFigureStore:
    """See `FigureStore`. It holds what it counts itself: `add` is for its backend alone."""

    def __init__(self) -> None:
        self._slots: dict[Span, dict[int, Sums]] = {span: {} for span in Span}
        self._fresh = FigureTally()

    def add(self, record: TaskRecord) -> None:
        """Count a task that has just finished."""
        self._fresh.add(record)

    async def read(
        self,
        span: Span,
        first: int,
        last: int,
        *,
        by_name: bool = False,
        kinds: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Figure]:
        """See `FigureStore`."""
        self._settle()
        slots = self._slots[span]
        parts = [
            (slot, name if by_name else "", kind, bucket, tasks, micros)
            for slot in sorted(slots)
            if first <= slot <= last
            for (name, kind, bucket), (tasks, micros) in slots[slot].items()
            if (kinds is None or kind in kinds) and (names is None or name in names)
        ]
        added: dict[tuple[int, str, str, int], list[int]] = {}
        async for slot, name, kind, bucket, tasks, micros in in_slices(parts, _AT_ONCE):
            sums = added.setdefault((slot, name, kind, bucket), [0, 0])
            sums[0] += tasks
            sums[1] += micros
        return [Figure(*key, *added[key]) for key in sorted(added)]

    async def oldest(self, span: Span) -> int | None:
        """See `FigureStore`."""
        self._settle()
        return min(self._slots[span], default=None)

    async def forget(self, span: Span, before: int, limit: int) -> int:
        """See `FigureStore`."""
        self._settle()
        deleted = 0
        for slot in sorted(slot for slot in self._slots[span] if slot < before):
            if deleted >= limit:
                break
            deleted += len(self._slots[span].pop(slot))
        return deleted

    def _settle(self) -> None:
        """Add what was counted since the last time: twice for each task would cost each task more."""
        fresh, self._fresh = self._fresh, FigureTally()
        for span, slots in self._slots.items():
            for figure in fresh.figures(span):
                key = figure.func_name, figure.kind, figure.bucket
                sums = slots.setdefault(figure.slot, {}).setdefault(key, [0, 0])
                sums[0] += figure.tasks
                sums[1] += figure.micros
