"""What bulk operations do with their tasks: retry, cancel, delete. Each can be repeated after an interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.retries import Retries
from taskflow_otel.errors import AlreadyRetriedError, TaskflowError, TaskNotFoundError, TaskStateError
from taskflow_otel.model.operation import Operation, OperationItem
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import ItemOutcome

_MAX_DETAIL = 500
_DONE, _REFUSED, _FAILED = ItemOutcome.DONE.value, ItemOutcome.REFUSED.value, ItemOutcome.FAILED.value
_FORGET_BATCH = 500


class Work(Protocol):
    """One kind of bulk operation."""

    slice: int
    """How many tasks one call of `do` gets."""

    def wants(self, record: TaskRecord) -> bool:
        """Whether a task that the filter matches is selected."""

    async def do(self, operation: Operation, items: Sequence[OperationItem], *, repeated: bool) -> list[OperationItem]:
        """The items with their results. `repeated`: an earlier call may have done some of it already.

        Raises `BackendError` and `NotStartedError`; then the call is repeated later.
        """

    async def end(self, operation: Operation) -> None:
        """The operation has ended."""


class RetryWork:
    """Makes a new task from each, unless a retry of it exists.

    Each new task uses a name that only one task can ever use, so that a repeated call makes no second one.
    """

    slice = 100

    def __init__(self, retries: Retries, backend: Backend) -> None:
        self._retries = retries
        self._backend = backend

    def wants(self, record: TaskRecord) -> bool:
        """See `Work`."""
        return record.retried_by is None

    async def do(self, operation: Operation, items: Sequence[OperationItem], *, repeated: bool) -> list[OperationItem]:
        """See `Work`."""
        prefix = _prefix(operation)
        made = await self._retries.retry_all([item.task_id for item in items], once=prefix)
        return [await self._settled(item, made[item.task_id], prefix if repeated else None) for item in items]

    async def end(self, operation: Operation) -> None:
        """Forget the names."""
        prefix = _prefix(operation)
        after = f"{prefix[:-1]};"
        forgotten = _FORGET_BATCH
        while forgotten == _FORGET_BATCH:
            forgotten = await self._backend.forget_once(prefix, after, _FORGET_BATCH)

    async def _settled(
        self, item: OperationItem, result: TaskRecord | TaskflowError, prefix: str | None
    ) -> OperationItem:
        if isinstance(result, TaskRecord):
            return replace(item, outcome=_DONE, new_task_id=result.task_id)
        if not isinstance(result, AlreadyRetriedError):
            return _refused(item, result)
        if prefix is not None:
            used = await self._backend.latest_once(prefix + item.task_id)
            if used == (prefix + item.task_id, result.retried_by):
                return replace(item, outcome=_DONE, new_task_id=result.retried_by)
        return replace(_refused(item, result), new_task_id=result.retried_by)


class CancelWork:
    """Cancels each task."""

    slice = 50

    def __init__(self, control: Control, lookup: Lookup) -> None:
        self._control = control
        self._lookup = lookup

    def wants(self, record: TaskRecord) -> bool:
        """See `Work`."""
        return not record.status.finished

    async def do(self, operation: Operation, items: Sequence[OperationItem], *, repeated: bool) -> list[OperationItem]:
        """See `Work`."""
        # At once, so that they share transactions.
        return list(await asyncio.gather(*(self._cancelled(item, repeated=repeated) for item in items)))

    async def end(self, operation: Operation) -> None:
        """See `Work`."""

    async def _cancelled(self, item: OperationItem, *, repeated: bool) -> OperationItem:
        try:
            await self._control.cancel(item.task_id)
        except TaskNotFoundError as exc:
            return _refused(item, exc)
        except TaskStateError as exc:
            found = (await self._lookup.get_all([item.task_id])).get(item.task_id) if repeated else None
            if found is not None and found.status is TaskStatus.CANCELLED:
                return replace(item, outcome=_DONE)
            return _refused(item, exc)
        return replace(item, outcome=_DONE)


class DeleteWork:
    """Deletes each finished task; `delete` returns the ids of those that it has deleted."""

    slice = 200

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[list[str]]], lookup: Lookup) -> None:
        self._delete = delete
        self._lookup = lookup

    def wants(self, record: TaskRecord) -> bool:
        """See `Work`."""
        return record.status.finished

    async def do(self, operation: Operation, items: Sequence[OperationItem], *, repeated: bool) -> list[OperationItem]:
        """See `Work`."""
        deleted = set(await self._delete([item.task_id for item in items]))
        left = [item.task_id for item in items if item.task_id not in deleted]
        known = await self._lookup.get_all(left) if left else {}
        return [
            replace(item, outcome=_DONE)
            if item.task_id in deleted or (repeated and item.task_id not in known)
            else _refused(item, _why_kept(item.task_id, known.get(item.task_id)))
            for item in items
        ]

    async def end(self, operation: Operation) -> None:
        """See `Work`."""


def _prefix(operation: Operation) -> str:
    return f"operation:{operation.operation_id}:"


def _why_kept(task_id: str, record: TaskRecord | None) -> TaskflowError:
    if record is None:
        return TaskNotFoundError(task_id)
    if record.status.finished:
        return TaskStateError(f"task {task_id} is being deleted by another request")
    return TaskStateError(f"task {task_id} is {record.status}; only a finished task can be deleted")


def _refused(item: OperationItem, why: TaskflowError) -> OperationItem:
    outcome = _REFUSED if isinstance(why, TaskStateError | TaskNotFoundError) else _FAILED
    return replace(item, outcome=outcome, detail=plain_text(str(why), _MAX_DETAIL))
