"""The pool in the memory of this process: for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from taskflow_otel.backends.pool import POOL, Claimed, PoolDepth, Pooled, Wanted
from taskflow_otel.model.record import TaskRecord


class MemoryPoolStore:
    """See `PoolStore`. `get` returns the stored task of an id; `pass_on` gives it a new owner, and returns a copy."""

    def __init__(
        self, get: Callable[[str], TaskRecord | None], pass_on: Callable[[TaskRecord, str], TaskRecord]
    ) -> None:
        self._get = get
        self._pass_on = pass_on
        self._pooled: dict[str, Pooled] = {}

    async def give(self, owner: str, tasks: Sequence[Pooled]) -> None:
        """See `PoolStore`."""
        for task in tasks:
            record = self._get(task.task_id)
            if record is not None and record.instance == owner and not record.status.finished:
                self._pass_on(record, POOL)
                self._pooled[task.task_id] = task

    async def claim(self, owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
        """See `PoolStore`."""
        mine = [
            task
            for task in self._pooled.values()
            if task.queue == wanted.queue
            and task.func_name in wanted.names
            and (task.seal is None or task.seal in seals)
        ]
        mine.sort(key=lambda task: (-task.priority, task.task_id))
        return [taken for task in mine[: wanted.limit] if (taken := self._take(owner, task.task_id)) is not None]

    async def claim_one(self, owner: str, task_id: str) -> Claimed | None:
        """See `PoolStore`."""
        return self._take(owner, task_id)

    async def depth(self, queues: Collection[str]) -> dict[str, PoolDepth]:
        """See `PoolStore`."""
        found: dict[str, PoolDepth] = {}
        for task in self._pooled.values():
            if task.queue in queues:
                known = found.get(task.queue, PoolDepth(0, task.since))
                found[task.queue] = PoolDepth(known.tasks + 1, min(known.oldest, task.since))
        return found

    def _take(self, owner: str, task_id: str) -> Claimed | None:
        task, record = self._pooled.pop(task_id, None), self._get(task_id)
        return None if task is None or record is None else Claimed(self._pass_on(record, owner), task.since)
