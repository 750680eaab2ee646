"""TaskActions: what an application does with its tasks; the half of `TaskManager` that asks its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from types import EllipsisType
from typing import Any, ParamSpec, overload
from uuid import UUID

from taskflow_otel.backends.transactions import CallerSession
from taskflow_otel.engine.engine import Engine
from taskflow_otel.engine.live import TaskStore
from taskflow_otel.engine.queues import QueueStats
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.enqueue import checked_moment, shows_add_options, split_options
from taskflow_otel.model.ids import id_text
from taskflow_otel.model.options import plain_name, whole
from taskflow_otel.model.plain import MAX_NAME, MAX_TAG_TEXT, plain_text, repr_of, text_of
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.schedule import ScheduledRun, ScheduleStatus
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.request.bound import refuse_request_bound

P = ParamSpec("P")
Tags = Mapping[str, object]
Seconds = float | timedelta

_PAGE = 500
_MOST_FOUND = 100_000
_REASON = 1_000
"""Characters kept of the reason of a pause, as many as a request may give."""


def _always() -> bool:
    return True


class TaskActions:
    """The methods of `TaskManager` that add, read, cancel and retry tasks, and change queues and schedules."""

    engine: Engine
    """Everything that runs; the routes of the administration read it too."""

    @property
    def store(self) -> TaskStore:
        """The live tasks of this process: `store.get(task_id)`, `store.list()`."""
        return self.engine.store

    # As for `add_task`: each option has a signature in which it is required, and the last one checks the arguments.
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, idempotency_key: str | None, tags: Tags | None = ...,
        eager: bool | None = ..., priority: int | None = ..., queue: str | None = ..., delay: Seconds | None = ...,
        run_at: datetime | None = ..., session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, tags: Tags | None, eager: bool | None = ...,
        priority: int | None = ..., queue: str | None = ..., delay: Seconds | None = ..., run_at: datetime | None = ...,
        session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, eager: bool | None, priority: int | None = ...,
        queue: str | None = ..., delay: Seconds | None = ..., run_at: datetime | None = ...,
        session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, priority: int | None, queue: str | None = ...,
        delay: Seconds | None = ..., run_at: datetime | None = ..., session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, queue: str | None, delay: Seconds | None = ...,
        run_at: datetime | None = ..., session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, delay: Seconds | None, run_at: datetime | None = ...,
        session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, run_at: datetime | None, session: CallerSession | None = ...,
        **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    async def enqueue(
        self, func: Callable[..., Any], *args: Any, session: CallerSession | None, **kwargs: Any
    ) -> str: ...
    @overload
    async def enqueue(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> str: ...
    @shows_add_options
    async def enqueue(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        """Enqueue a task from anywhere, also from other event loops; return its id (if persisted, after the commit).

        Takes the options of `add_task` besides the function's own arguments. Raises the errors of `add_task`, and
        `BackendUnavailableError` if the commit failed: then the task does not run. With `session` it returns before
        the commit, which is the caller's, and raises the errors of SQLAlchemy for the caller's transaction.
        """
        options, rest = split_options(kwargs)
        refuse_request_bound(func, args, rest, _always)
        door = self.engine.door
        if options.session is not None:
            return await door.enqueue_within(func, args, rest, options)
        if not door.life.is_home():
            return await door.enqueue(func, args, rest, options)
        # `Door.enqueue` without its coroutine, which most tasks do not need.
        task_id, task = door.enter(func, args, rest, options)
        return task_id if task is None else await door.commit(task)

    @partial(shows_add_options, without=("eager", "delay", "session"))
    async def schedule_once(
        self, func: Callable[..., Any], *args: Any, run_at: datetime, run_key: str | None = None, **kwargs: Any
    ) -> ScheduledRun:
        """Plan one run of a declared task for a moment, and return once that is stored.

        `run_at`: an aware datetime of any zone; a past one means at once. `run_key`: a later plan with the same key
        replaces the earlier one. Takes `tags`, `priority`, `queue` and `idempotency_key` besides the function's own
        arguments. A run that was due while no instance ran starts at the next start.

        Raises `ConfigurationError`, `TaskArgumentError`, `PersistenceError` for a function that is not a task,
        `NotStartedError` and `BackendError`.
        """
        options, rest = split_options(kwargs)
        return await self.engine.schedules.once(func, args, rest, options, run_at=run_at, run_key=run_key)

    async def cancel_scheduled(self, run_key: str) -> bool:
        """Drop the run planned under a key by any instance; return `False` if it does not exist or has begun."""
        return await self.engine.schedules.cancel_once(run_key)

    async def list_scheduled(self, before: datetime | None = None) -> list[ScheduledRun]:
        """The runs planned by `schedule_once` on all instances that have not begun, the next first.

        `before`: only those that are due at or before this aware datetime. Raises `ConfigurationError` for another.
        """
        latest = None if before is None else checked_moment("before", before)
        planned = await self.engine.schedules.planned()
        return planned if latest is None else [run for run in planned if run.run_at <= latest]

    def schedules(self) -> list[ScheduleStatus]:
        """The recurring schedules of this process, with their last and next run."""
        return self.engine.schedules.statuses()

    async def run_schedule(self, name: str) -> TaskRecord:
        """Run a schedule's function now, beside its rule; raises `UnknownScheduleError` and the errors of `enqueue`."""
        return await self.engine.schedules.run(name)

    async def pause_schedule(self, name: str, *, reason: str | None = None) -> None:
        """Stop a schedule from firing, on all instances, also after a restart; raises `UnknownScheduleError`.

        `reason`: why, for the people who wonder; the API and the page show up to 1,000 characters of it.
        """
        await self.engine.schedules.pause(name, reason=_reason(reason))

    async def resume_schedule(self, name: str) -> None:
        """Let a schedule fire again from now on; raises `UnknownScheduleError`."""
        await self.engine.schedules.resume(name)

    async def get(self, task_id: str | UUID, *, session: CallerSession | None = None) -> TaskRecord:
        """A snapshot of a task of any instance, with its `logs`; raises `TaskNotFoundError`.

        `logs` is `None` if the backend does not answer in two seconds. With `session`: the task as that transaction
        sees it, without logs; also one that was added in it.
        """
        if session is not None:
            return await self.engine.transactions.get(id_text(task_id), session)
        return await self.engine.lookup.get_with_logs(id_text(task_id))

    async def find(
        self,
        *,
        status: TaskStatus | str | None = None,
        func_name: str | None = None,
        queue: str | None = None,
        tag: tuple[str, str | None] | None = None,
        source: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        trace_id: str | None = None,
        q: str | None = None,
        limit: int = 100,
    ) -> list[TaskRecord]:
        """The tasks of all instances that match, live and finished, newest first, without their logs.

        `status`: one of `TaskStatus`. `tag`: a name and its value, or `None` for any value. `since` (inclusive) and
        `until` (exclusive): aware datetimes, compared with `created_at`. `q`: a part of the name, the error or the id.
        `limit`: the most tasks, up to 100,000. Raises `ConfigurationError` for a filter that is not one, and
        `BackendError`.
        """
        wanted = whole("limit", limit, minimum=1, maximum=_MOST_FOUND)
        query = TaskQuery(
            status=_status(status),
            func_name=_text("func_name", func_name),
            queue=_text("queue", queue),
            tag=None if tag is None else _tag(tag),
            source=_text("source", source),
            since=None if since is None else checked_moment("since", since),
            until=None if until is None else checked_moment("until", until),
            trace_id=_text("trace_id", trace_id),
            q=_text("q", q),
        )
        found: list[TaskRecord] = []
        cursor: str | None = None
        while True:
            # A page may be short, or empty, and yet not the last one.
            page = await self.engine.lookup.page(replace(query, limit=min(_PAGE, wanted - len(found)), cursor=cursor))
            found += page.records
            cursor = page.next_cursor
            if cursor is None or len(found) >= wanted:
                return found

    async def logs(self, task_id: str | UUID) -> list[LogEntry]:
        """The log entries of a task of any instance, in order; raises `TaskNotFoundError`."""
        await self.engine.lookup.get(id_text(task_id))
        return await self.engine.lookup.logs(id_text(task_id))

    async def wait(self, task_id: str | UUID, timeout: float | None = None) -> TaskRecord:
        """Return a task once it has finished; raises `TaskNotFoundError`, `TimeoutError` after `timeout` seconds."""
        name, lookup = id_text(task_id), self.engine.lookup
        end = lookup.end_of(name) if timeout is None else None
        if end is not None and (record := await end).status.finished:
            return record.copy()
        return await lookup.wait(name, timeout, left=end is not None)

    async def cancel(self, task_id: str | UUID, *, session: CallerSession | None = None) -> TaskRecord:
        """Cancel a task of any instance; raises `TaskNotFoundError` or `TaskStateError`.

        With `session`, it is asked to stop within about a second after that transaction commits, and not if that is
        rolled back. Until then the transaction holds the row of the task.
        """
        if session is not None:
            return await self.engine.transactions.cancel(id_text(task_id), session)
        return await self.engine.control.cancel(id_text(task_id))

    async def retry(self, task_id: str | UUID, *, rerun: bool = False) -> TaskRecord:
        """Make a new task from a finished one and return it; a successful one needs `rerun=True`.

        If several instances retry one task at once, one succeeds; the others raise a `TaskStateError` that names the
        new task. Raises `TaskNotFoundError`, `TaskStateError` or `UnknownTaskError`.
        """
        return await self.engine.retries.retry(id_text(task_id), rerun=rerun)

    async def ask_for_stack(self, task_id: str | UUID) -> None:
        """Have the stack of a running task written into its log: files, lines and functions, without any values.

        If another instance runs the task, it writes the entry within about a second. Raises `TaskNotFoundError`, and
        `TaskStateError` if the task does not run.
        """
        await self.engine.stacks.ask(id_text(task_id))

    def queue_stats(self) -> dict[str, QueueStats]:
        """The queues of this process now."""
        return self.engine.queues.stats()

    async def update_queue_config(
        self,
        name: str,
        concurrency: int | EllipsisType | None = ...,
        max_size: int | EllipsisType | None = ...,
    ) -> None:
        """Change the limits of a queue at run time; `...` keeps a limit, `None` removes it.

        Raises `UnknownQueueError`, and `ConfigurationError` for an invalid limit.
        """
        await self.engine.queues.update(name, concurrency=concurrency, max_size=max_size)

    async def pause_queue(self, name: str, *, reason: str | None = None) -> None:
        """Start no further task of a queue, on all instances, also after a restart; raises `UnknownQueueError`.

        `reason`: as for `pause_schedule`.
        """
        await self.engine.queues.pause(name, reason=_reason(reason))

    async def resume_queue(self, name: str) -> None:
        """Start the tasks of a queue again; raises `UnknownQueueError`."""
        await self.engine.queues.resume(name)


def _text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else plain_name(value)
    raise ConfigurationError(f"{name} must be a text, not {repr_of(value)}")


def _reason(reason: object) -> str | None:
    if reason is None or isinstance(reason, str):
        return plain_text(reason, _REASON) if reason else None
    raise ConfigurationError(f"reason must be a text, not {repr_of(reason)}")


def _tag(tag: object) -> tuple[str, str | None]:
    if not isinstance(tag, tuple) or len(tag) != 2 or tag[0] is None:
        raise ConfigurationError(f"tag must be a name and a value, such as ('customer', '42'), not {repr_of(tag)}")
    return text_of(tag[0], MAX_NAME), None if tag[1] is None else text_of(tag[1], MAX_TAG_TEXT)


def _status(status: TaskStatus | str | None) -> TaskStatus | None:
    try:
        return None if status is None else TaskStatus(status)
    except ValueError:
        raise ConfigurationError(f"status must be one of {', '.join(TaskStatus)}, not {status!r}") from None
