"""What bulk operations do with their tasks: retry, cancel, delete. Each can be repeated after an interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.control import Control, finished_already
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.retries import REFUSALS, Retries
from taskflow_otel.errors import AlreadyRetriedError, BackendError, TaskflowError, TaskNotFoundError, TaskStateError
from taskflow_otel.model.operation import Operation, OperationItem
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import ItemOutcome

_MAX_DETAIL = 500
_DONE, _REFUSED, _FAILED = ItemOutcome.DONE.value, ItemOutcome.REFUSED.value, ItemOutcome.FAILED.value
_FORGET_BATCH = 500
_NO_REASON = "the backend refuses a value; the log of the instance says why"


class Reader(Protocol):
    """What reads tasks: the lookup of an engine, or a backend without one."""

    async def get_all(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        """The tasks among these that exist, by id."""

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks, newest first."""


class Work(Protocol):
    """One kind of bulk operation."""

    slice: int
    """How many tasks one call of `do` gets."""

    def wants(self, record: TaskRecord) -> bool:
        """Whether a task that the filter matches is selected."""

    async def refusal(self, task_id: str, record: TaskRecord | None) -> TaskflowError | None:
        """Why nothing would be done with a task as it is now (`None`: no task has this id); `None`: it would be."""

    async def do(self, operation: Operation, items: Sequence[OperationItem], *, repeated: bool) -> list[OperationItem]:
        """The items with their results. `repeated`: an earlier call may have done some of it already.

        Raises `NotStartedError` and `BackendError`. Then the call is repeated: later, or, if the backend refuses
        something for good, at once with each item alone.
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

    async def refusal(self, task_id: str, record: TaskRecord | None) -> TaskflowError | None:
        """See `Work`."""
        try:
            await self._retries.check(task_id, record, once=True)
        except REFUSALS as exc:
            return exc
        return None

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
            return refused(item, result)
        if prefix is not None:
            used = await self._backend.latest_once(prefix + item.task_id)
            if used == (prefix + item.task_id, result.retried_by):
                return replace(item, outcome=_DONE, new_task_id=result.retried_by)
        return replace(refused(item, result), new_task_id=result.retried_by)


class CancelWork:
    """Cancels each task."""

    slice = 50

    def __init__(self, control: Control, lookup: Lookup) -> None:
        self._control = control
        self._lookup = lookup

    def wants(self, record: TaskRecord) -> bool:
        """See `Work`."""
        return not record.status.finished

    async def refusal(self, task_id: str, record: TaskRecord | None) -> TaskflowError | None:
        """See `Work`."""
        if record is None:
            return TaskNotFoundError(task_id)
        return finished_already(record) if record.status.finished else None

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
            return refused(item, exc)
        except TaskStateError as exc:
            found = (await self._lookup.get_all([item.task_id])).get(item.task_id) if repeated else None
            if found is not None and _is_cancelled(found):
                return replace(item, outcome=_DONE)
            return refused(item, exc)
        return replace(item, outcome=_DONE)


class DeleteWork:
    """Deletes each finished task; `delete` returns the ids of those that it has deleted."""

    slice = 200

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[list[str]]], lookup: Reader) -> None:
        self._delete = delete
        self._lookup = lookup

    def wants(self, record: TaskRecord) -> bool:
        """See `Work`."""
        return record.status.finished

    async def refusal(self, task_id: str, record: TaskRecord | None) -> TaskflowError | None:
        """See `Work`."""
        if record is None:
            return TaskNotFoundError(task_id)
        if not record.status.finished:
            return TaskStateError(f"task {task_id} is {record.status}; only a finished task can be deleted")
        return None

    async def do(self, operation: Operation, items: Sequence[OperationItem], *, repeated: bool) -> list[OperationItem]:
        """See `Work`."""
        deleted = set(await self._delete([item.task_id for item in items]))
        left = [item.task_id for item in items if item.task_id not in deleted]
        known = await self._lookup.get_all(left) if left else {}
        results = []
        for item in items:
            if item.task_id in deleted or (repeated and item.task_id not in known):
                results.append(replace(item, outcome=_DONE))
                continue
            why = await self.refusal(item.task_id, known.get(item.task_id))
            results.append(
                refused(item, why or TaskStateError(f"task {item.task_id} is being deleted by another request"))
            )
        return results

    async def end(self, operation: Operation) -> None:
        """See `Work`."""


def _is_cancelled(record: TaskRecord) -> bool:
    """Whether a task was cancelled, or is being cancelled now: a request that was stored earlier may be acted on."""
    return record.status is TaskStatus.CANCELLED or (record.cancel_requested and not record.status.finished)


def _prefix(operation: Operation) -> str:
    return f"operation:{operation.operation_id}:"


def refused(item: OperationItem, why: TaskflowError) -> OperationItem:
    """The item of a task with which nothing was done."""
    outcome = _REFUSED if isinstance(why, TaskStateError | TaskNotFoundError) else _FAILED
    # The message of a backend may name its server.
    text = why.reason or _NO_REASON if isinstance(why, BackendError) else str(why)
    return replace(item, outcome=outcome, detail=plain_text(text, _MAX_DETAIL))
