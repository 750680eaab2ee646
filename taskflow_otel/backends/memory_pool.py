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
        self._slots: dict[str, tuple[str, int, int]] = {}
        """By task: its queue, and the token and the retries at its claim."""

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
            and wanted.task_id in (None, task.task_id)
            and (task.seal is None or task.seal in seals)
        ]
        mine.sort(key=lambda task: (-task.priority, task.task_id))
        limit = wanted.limit
        if wanted.of_all is not None:
            limit = max(0, min(limit, wanted.of_all - self._held(wanted.queue)))
        claimed = [taken for task in mine[:limit] if (taken := self._take(owner, task.task_id)) is not None]
        if wanted.of_all is not None:
            for one in claimed:
                self._slots[one.record.task_id] = (wanted.queue, one.record.token, one.record.retries_used)
        return claimed

    def _held(self, queue: str) -> int:
        """How many slots of a queue are held."""
        for task_id, (_, token, retries) in list(self._slots.items()):
            record = self._get(task_id)
            if record is None or record.status.finished or (record.token, record.retries_used) != (token, retries):
                del self._slots[task_id]
        return sum(of == queue for of, _, _ in self._slots.values())

    async def claim_one(self, owner: str, task_id: str) -> Claimed | None:
        """See `PoolStore`."""
        return self._take(owner, task_id)

    async def depth(self, queues: Collection[str], *, others: bool = False) -> dict[str, PoolDepth]:
        """See `PoolStore`."""
        found: dict[str, PoolDepth] = {}
        for task in self._pooled.values():
            if others or task.queue in queues:
                known = found.get(task.queue, PoolDepth(0, task.since))
                found[task.queue] = PoolDepth(known.tasks + 1, min(known.oldest, task.since))
        return found

    def _take(self, owner: str, task_id: str) -> Claimed | None:
        task, record = self._pooled.pop(task_id, None), self._get(task_id)
        return None if task is None or record is None else Claimed(self._pass_on(record, owner), task.since)
