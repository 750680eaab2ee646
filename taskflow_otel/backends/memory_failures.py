"""Groups of failures in the memory of this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from taskflow_otel.backends.failures import GroupCount, Occurrences, grouped
from taskflow_otel.model.query import FailureGroups, TaskQuery, Trend
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.runtime.owned_tasks import in_slices

_AT_ONCE = 1_000


class MemoryFailureStore:
    """See `FailureStore`. It reads the tasks of its backend, which are few, each time."""

    def __init__(self, matching: Callable[[TaskQuery], Awaitable[list[TaskRecord]]]) -> None:
        self._matching = matching

    async def groups(self, query: TaskQuery, trend: Trend) -> FailureGroups:
        """See `FailureStore`."""
        counts: dict[str, GroupCount] = {}
        async for record in in_slices(await self._matching(query), _AT_ONCE):
            grouped((record,), trend, counts)
        groups = [count.result() for count in counts.values()]
        return FailureGroups([group for group in groups if group.total])

    async def occurrences(self, fingerprints: Collection[str], first: int, last: int, seconds: int) -> Occurrences:
        """See `FailureStore`."""
        found: Occurrences = {}
        async for record in in_slices(await self._matching(TaskQuery()), _AT_ONCE):
            fingerprint = record.fingerprint
            if fingerprint is None or fingerprint not in fingerprints or not record.status.finished:
                continue
            slot = int((record.end_time or record.created_at).timestamp()) // seconds * seconds
            if first <= slot <= last:
                slots = found.setdefault(fingerprint, {})
                slots[slot] = slots.get(slot, 0) + 1
        return found
