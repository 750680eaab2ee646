"""One bulk operation while this process works it off, slice by slice. After each slice, its results are stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace as with_query

from msgspec.structs import replace

from taskflow_otel.backends.admin import OperationStore
from taskflow_otel.engine.admin.work import Reader, Work, refused
from taskflow_otel.errors import BackendError
from taskflow_otel.model.operation import Operation, OperationItem, Selection
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import ItemOutcome, OperationStatus
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.retrying import BACKEND

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_STORED_AT_ONCE = 500
_COLLECTED_AT_ONCE = 200
_UNSTORED = "the request was interrupted before it was stored completely; nothing was done"


class Fenced(Exception):
    """Another instance has taken the operation over."""


class OperationRun:
    """Works off one operation, of which this process is the owner."""

    def __init__(
        self, operation: Operation, store: OperationStore, work: Work, lookup: Reader, clock: Clock, *, repeated: bool
    ) -> None:
        self.operation: Operation = operation
        self._store = store
        self._work = work
        self._lookup = lookup
        self._clock = clock
        self._repeated = repeated
        """Whether the next slice may have been worked off before, without its results being stored."""
        self._progressed = asyncio.Event()
        self.over: bool = False
        """Whether this process works on it no more."""

    async def name_tasks(self, task_ids: Sequence[str]) -> None:
        """Store the items of an operation whose tasks are named, and let it begin. Raises `BackendError`."""
        for start in range(0, len(task_ids), _STORED_AT_ONCE):
            some = task_ids[start : start + _STORED_AT_ONCE]
            items = [OperationItem(seq=start + n, task_id=task_id) for n, task_id in enumerate(some)]
            await self._save(replace(self.operation, total=start + len(some)), items)
        await self._save(replace(self.operation, begun=True), [])

    async def until(self, enough: Callable[[Operation], bool]) -> None:
        """Return once the operation fulfils a condition, or this process works on it no more."""
        while not (enough(self.operation) or self.over):
            self._progressed.clear()
            await self._progressed.wait()

    async def finish(self) -> None:
        """Work until the operation has ended. Raises `Fenced`, and `NotStartedError` once the engine is stopping."""
        try:
            await self._work_until_the_end()
        finally:
            self.over = True
            self._progressed.set()

    async def _work_until_the_end(self) -> None:
        failures = 0
        while self.operation.ended_at is None:
            try:
                await self._step()
            except BackendError as exc:
                if not exc.transient:
                    logger.error("bulk operation %s failed: %s", self.operation.operation_id, exc)
                    await self._end(OperationStatus.FAILED, plain_text(exc.reason or "the backend refuses a value"))
                    return
                failures += 1
                self._repeated = True
                await self._clock.sleep(BACKEND.after(failures))
            else:
                failures = 0

    async def fail(self, why: str) -> None:
        """End the operation, because of an error in the library."""
        await self._end(OperationStatus.FAILED, why)

    async def release(self) -> None:
        """Let another instance take the operation over at once."""
        if self.operation.ended_at is None:
            await self._save(replace(self.operation, owner=None), [])

    async def _step(self) -> None:
        operation = self.operation
        if not operation.begun:
            await self._end(OperationStatus.FAILED, _UNSTORED)
        elif operation.done < operation.total:
            await self._work_off(await self._store.items(operation.operation_id, operation.done, self._work.slice))
        elif operation.selection is not None and not operation.selection.exhausted:
            await self._collect(operation.selection)
        else:
            await self._work.end(operation)
            await self._end(OperationStatus.DONE)

    async def _work_off(self, items: Sequence[OperationItem]) -> None:
        results = await self._results_of(items)
        succeeded = sum(item.outcome == ItemOutcome.DONE for item in results)
        operation = self.operation
        await self._save(
            replace(operation, done=operation.done + len(results), succeeded=operation.succeeded + succeeded), results
        )
        self._repeated = False

    async def _results_of(self, items: Sequence[OperationItem]) -> list[OperationItem]:
        try:
            return await self._work.do(self.operation, items, repeated=self._repeated)
        except BackendError as exc:
            if exc.transient:
                raise
            if len(items) == 1:
                logger.warning("bulk operation %s: %s", self.operation.operation_id, exc)
                return [refused(items[0], exc)]
        # What the backend refuses for good of one task must not keep the others from being done.
        self._repeated = True
        return [result for item in items for result in await self._results_of([item])]

    async def _collect(self, selection: Selection) -> None:
        """Add the next tasks that the filter matches."""
        total = self.operation.total
        room = _COLLECTED_AT_ONCE if selection.limit is None else min(_COLLECTED_AT_ONCE, selection.limit - total)
        query = _page_of(selection, _COLLECTED_AT_ONCE)
        page = await self._lookup.page(query)
        wanted = [record.task_id for record in page.records if self._wants(record, selection)]
        items = [OperationItem(seq=total + n, task_id=task_id) for n, task_id in enumerate(wanted[:room])]
        if len(wanted) > room:
            selection = replace(selection, at=len(selection.statuses), more=True)
        elif page.next_cursor is not None:
            selection = replace(selection, cursor=page.next_cursor)
        else:
            selection = replace(selection, at=selection.at + 1, cursor=None)
        await self._save(replace(self.operation, selection=selection, total=total + len(items)), items)

    def _wants(self, record: TaskRecord, selection: Selection) -> bool:
        before = selection.ended_before
        if before is not None and not (record.end_time or record.created_at) < before:
            return False
        return self._work.wants(record)

    async def _end(self, status: OperationStatus, error: str | None = None) -> None:
        await self._save(
            replace(self.operation, status=status.value, error=error, owner=None, ended_at=self._clock.now()), []
        )

    async def _save(self, operation: Operation, items: Sequence[OperationItem]) -> None:
        if not await self._store.save(operation, items):
            stored = await self._store.get(operation.operation_id)
            # The answer to an earlier call may have been lost.
            if stored != operation:
                raise Fenced
        self.operation = operation
        self._progressed.set()


def _page_of(selection: Selection, limit: int) -> TaskQuery:
    status = TaskStatus(selection.statuses[selection.at])
    return with_query(selection.query, status=status, limit=limit, cursor=selection.cursor)
