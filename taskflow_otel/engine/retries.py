"""Retries by hand: a new task from a finished one, or from many in few transactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry
from taskflow_otel.errors import (
    AlreadyRetriedError,
    BackendError,
    ConfigurationError,
    QueueFullError,
    TaskArgumentError,
    TaskflowError,
    TaskNotFoundError,
    TaskStateError,
    UnknownTaskError,
)
from taskflow_otel.model.cipher import is_encrypted
from taskflow_otel.model.payload import Given
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import KEY_HOLDING_STATUSES, TaskStatus
from taskflow_otel.runtime.owned_tasks import in_slices

REFUSALS = (TaskNotFoundError, TaskStateError, UnknownTaskError, TaskArgumentError, QueueFullError)
"""The errors that prevent the retry of one task, but not of the next one."""
_FLUSH_BEFORE_LINK = 1.0
"""Seconds to wait for pending history before a retry is committed."""
_TOGETHER = 100
"""Retries in one commit."""
_BUILT_AT_ONCE = 10
"""Tasks built before others get the event loop: decrypting and encrypting arguments takes time."""


class Retries:
    """Retries finished tasks of any instance."""

    def __init__(
        self,
        lookup: Lookup,
        registry: TaskRegistry,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        ledger: Ledger,
        builder: TaskBuilder,
        intake: Intake,
        life: Life,
    ) -> None:
        self._lookup = lookup
        self._registry = registry
        self._tasks = tasks
        self.lifecycle = lifecycle
        self._ledger = ledger
        self._builder = builder
        self._intake = intake
        self.life = life

    @at_home
    async def retry(
        self, task_id: str, *, rerun: bool = False, arguments: Mapping[str, Any] | None = None
    ) -> TaskRecord:
        """Make a new task from a finished one and return it; a successful one needs `rerun`.

        `arguments`: other values for some of its parameters, as JSON data. Raises `TaskArgumentError` for a value that
        the annotation of its parameter does not allow.

        Raises `NotStartedError`, `TaskNotFoundError`, `UnknownTaskError` if its name is not registered here, and
        `TaskStateError` if it has not finished, has succeeded, is being retried already, or its arguments were not
        stored. If several instances retry it at once, one succeeds, and the errors of the others name the new task.
        """
        result = (await self._retry_together([task_id], rerun=rerun, arguments=arguments))[task_id]
        if isinstance(result, TaskflowError):
            raise result
        return result

    @at_home
    async def retry_all(
        self, task_ids: Iterable[str], *, once: str | None = None
    ) -> dict[str, TaskRecord | TaskflowError]:
        """Retry several tasks in few transactions; return by id the new task, or the error that `retry` would raise.

        With `once`, no task is retried of which a retry exists, even if that has ended; and each new task uses the name
        `once` + id of the original, so that a repeated call makes no second one.

        Raises `NotStartedError`, and `BackendError` if a transaction failed; earlier retries stay valid. The result for
        a task that the backend refuses for good is its `BackendError`.
        """
        ids = list(dict.fromkeys(task_ids))
        results: dict[str, TaskRecord | TaskflowError] = {}
        for start in range(0, len(ids), _TOGETHER):
            results |= await self._retry_together(ids[start : start + _TOGETHER], once=once)
        return results

    @at_home
    async def parameters(self, task_id: str) -> list[Given]:
        """The parameters of a task's function with the stored arguments, which are unknown if they are encrypted.

        Raises `TaskNotFoundError`, `UnknownTaskError` if its name is not registered here, `TaskStateError` if its
        arguments were not stored, and `TaskArgumentError` if the function has no longer place for them.
        """
        original = await self._lookup.get(task_id)
        codec = self._registry.get(original.func_name).codec
        if original.payload is None or codec is None:
            raise TaskStateError(f"the arguments of task {task_id} were not stored (they cannot be written as JSON)")
        return codec.form(None if is_encrypted(original.payload) else original.payload)

    async def _retry_together(
        self,
        task_ids: Sequence[str],
        *,
        rerun: bool = False,
        once: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> dict[str, TaskRecord | TaskflowError]:
        self.life.require_running()
        # An original may have finished here a moment ago: it must be stored before a retry can link to it.
        await self._ledger.flush(_FLUSH_BEFORE_LINK)
        originals = await self._lookup.get_all(task_ids)
        built: dict[str, LiveTask] = {}
        refused: dict[str, TaskflowError] = {}
        try:
            async for task_id in in_slices(task_ids, _BUILT_AT_ONCE):
                try:
                    built[task_id] = await self._build(
                        task_id, originals.get(task_id), rerun=rerun, once=once, arguments=arguments
                    )
                except REFUSALS as exc:
                    refused[task_id] = exc
        except BaseException:
            # Tasks that will not be committed must give up their places in the queues.
            self._intake.reject(built.values())
            raise
        refusals: dict[str, BackendError] = {}
        if built:
            await self._intake.make_known(list(built.values()), refusals)
        for task_id, task in list(built.items()):
            if (refusal := refusals.get(task.id)) is not None:
                refused[task_id] = refusal
                del built[task_id]
            elif (first := task.repeats or task.record.duplicate_of) is not None:
                refused[task_id] = await self._second(task_id, first)
                del built[task_id]
            elif (window := self._tasks.record(task_id)) is not None:
                window.retried_by = task.id
        self._intake.hand_over(list(built.values()))
        return {task_id: built[task_id].record.copy() if task_id in built else refused[task_id] for task_id in task_ids}

    async def _build(
        self,
        task_id: str,
        original: TaskRecord | None,
        *,
        rerun: bool,
        once: str | None,
        arguments: Mapping[str, Any] | None,
    ) -> LiveTask:
        """The new task, with its place in its queue; raises one of `REFUSALS`."""
        original = await self.check(task_id, original, rerun=rerun, once=once is not None)
        definition = self._registry.get(original.func_name)
        keep_key = original.status not in KEY_HOLDING_STATUSES
        payload = self._revised(original, definition, arguments) if arguments else None
        try:
            task = self._builder.rebuild(original, definition, keep_key=keep_key, payload=payload)
        except (TaskArgumentError, ConfigurationError) as exc:
            raise TaskStateError(f"task {task_id} cannot be retried here: {exc}") from exc
        if once is not None:
            task.once = once + task_id
        taken = self._intake.take(task)
        if taken.task is None:
            raise TaskStateError(f"task {taken.task_id} holds the idempotency key of {task_id} already")
        return task

    def _revised(self, original: TaskRecord, definition: TaskDefinition, arguments: Mapping[str, Any]) -> str:
        """The stored arguments with these changes. What is wrong with the stored ones is no fault of the changes."""
        stored = original.payload or ""
        try:
            if definition.codec is not None:
                self._builder.decode_payload(definition.codec, stored)
        except TaskArgumentError as exc:
            raise TaskStateError(f"task {original.task_id} cannot be retried here: {exc}") from exc
        return self._builder.revise(definition, stored, arguments)

    async def check(
        self, task_id: str, original: TaskRecord | None, *, rerun: bool = False, once: bool = False
    ) -> TaskRecord:
        """The task itself, if it can be retried as it is now; raises one of `REFUSALS`. See `retry_all` for `once`."""
        original = finished_original(task_id, original, rerun=rerun)
        self._registry.get(original.func_name)
        if original.payload is None:
            raise TaskStateError(
                f"the arguments of task {task_id} were not stored (they cannot be written as JSON), "
                "so it cannot be retried; enqueue it again from code"
            )
        if original.retried_by is not None:
            await self._refuse_second_retry(original, ended_too=once)
        return original

    async def _second(self, task_id: str, first: str) -> TaskStateError:
        """Why the ledger refused a retry: `first` was there earlier."""
        try:
            if (await self._lookup.get(first)).retry_of == task_id:
                return AlreadyRetriedError(task_id, first)
        except TaskNotFoundError:
            # Deleted since.
            pass
        return TaskStateError(f"task {first} holds the idempotency key of {task_id} already")

    async def _refuse_second_retry(self, original: TaskRecord, *, ended_too: bool) -> None:
        try:
            successor = await self._lookup.get(original.retried_by or "")
        except TaskNotFoundError:
            return
        if ended_too or not successor.status.finished:
            raise AlreadyRetriedError(original.task_id, successor.task_id, ended=successor.status.finished)


def finished_original(task_id: str, original: TaskRecord | None, *, rerun: bool = False) -> TaskRecord:
    """The task itself, if its state allows a retry; raises `TaskNotFoundError` or `TaskStateError`."""
    if original is None:
        raise TaskNotFoundError(task_id)
    if not original.status.finished:
        raise TaskStateError(f"task {task_id} is {original.status}; only a finished task can be retried")
    if original.status is TaskStatus.SUCCESS and not rerun:
        raise TaskStateError(f"task {task_id} succeeded; use rerun=true to run it once more")
    return original
