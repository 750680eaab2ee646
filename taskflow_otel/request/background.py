"""`ManagedBackgroundTasks`: the object to which a route adds tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ParamSpec, Protocol, overload

from fastapi import BackgroundTasks
from starlette.background import BackgroundTask

from taskflow_otel.backends.transactions import CallerSession
from taskflow_otel.engine.engine import Engine
from taskflow_otel.model.enqueue import NO_OPTIONS, shows_add_options, split_options
from taskflow_otel.request.current import current_request
from taskflow_otel.request.outbox import NativeCall, Outbox

P = ParamSpec("P")
Tags = Mapping[str, object]
Seconds = float | timedelta


class _HasEngine(Protocol):
    """What is needed of a `TaskManager`."""

    engine: Engine


def _outbox_of(manager: _HasEngine) -> Outbox:
    """The outbox of the current request, or one without a request."""
    try:
        door = manager.engine.door
    except AttributeError:
        raise TypeError(f"ManagedBackgroundTasks needs a TaskManager, not {type(manager).__name__}") from None
    request = current_request.get()
    found = None if request is None else request.of(door)
    return Outbox(door, lambda: None, immediate=True) if found is None else found.make_outbox()


class ManagedBackgroundTasks(BackgroundTasks):
    """FastAPI's `BackgroundTasks`, but every task is visible, and persisted on request.

    Declared tasks start after the last byte of the response and after the request's dependencies have finished.
    Undecorated functions run as in FastAPI: inside the request, one after the other. If the request fails, none runs.
    """

    def __init__(self, task_manager: _HasEngine | Outbox, background_tasks: BackgroundTasks | None = None) -> None:
        """By hand, `ManagedBackgroundTasks(task_manager)`: outside a request, each task starts once it is added.

        Within a request these are the request's tasks. `background_tasks`: FastAPI's, whose list they share.
        """
        super().__init__()
        if background_tasks is not None:
            self.tasks: list[BackgroundTask] = background_tasks.tasks
        outbox = task_manager if isinstance(task_manager, Outbox) else _outbox_of(task_manager)
        self._outbox = outbox
        outbox.look_after(self.tasks)

    def belongs_to(self, outbox: Outbox) -> bool:
        """Whether these are the tasks of this outbox."""
        return self._outbox is outbox

    # A ParamSpec allows no further keywords between args and kwargs. So each option has a signature in which it is
    # required: calls with options check the options, calls without them check the function's arguments.
    @overload  # type: ignore[override]  # FastAPI's returns nothing; ours returns the id
    def add_task(
        self, func: Callable[..., Any], *args: Any, idempotency_key: str | None, tags: Tags | None = ...,
        eager: bool | None = ..., priority: int | None = ..., queue: str | None = ..., delay: Seconds | None = ...,
        run_at: datetime | None = ..., session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def add_task(
        self, func: Callable[..., Any], *args: Any, tags: Tags | None, eager: bool | None = ...,
        priority: int | None = ..., queue: str | None = ..., delay: Seconds | None = ..., run_at: datetime | None = ...,
        session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def add_task(
        self, func: Callable[..., Any], *args: Any, eager: bool | None, priority: int | None = ...,
        queue: str | None = ..., delay: Seconds | None = ..., run_at: datetime | None = ...,
        session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def add_task(
        self, func: Callable[..., Any], *args: Any, priority: int | None, queue: str | None = ...,
        delay: Seconds | None = ..., run_at: datetime | None = ..., session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def add_task(
        self, func: Callable[..., Any], *args: Any, queue: str | None, delay: Seconds | None = ...,
        run_at: datetime | None = ..., session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def add_task(
        self, func: Callable[..., Any], *args: Any, delay: Seconds | None, run_at: datetime | None = ...,
        session: CallerSession | None = ..., **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def add_task(
        self, func: Callable[..., Any], *args: Any, run_at: datetime | None, session: CallerSession | None = ...,
        **kwargs: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def add_task(self, func: Callable[..., Any], *args: Any, session: CallerSession | None, **kwargs: Any) -> str: ...
    @overload
    def add_task(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> str: ...
    @shows_add_options
    def add_task(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        """Add a task and return its id. Callable from `async def` and `def` routes.

        `idempotency_key`: at most one task with this key is pending, running or successful; if another task holds the
        key, its id is returned. `tags`: names and values for finding the task. `eager`: start now, before the
        response. `priority`: higher runs first (default 5). `queue`: one of the manager's queues. `delay` (seconds or
        timedelta) or `run_at` (an aware datetime): the earliest start. `session`: a session or connection of SQLAlchemy
        on the database of the backend; the task exists exactly if its transaction commits, and starts right after.
        A keyword with the name of an option is that option, also for a function with `**kwargs`. With
        `partial(func, ...)` as the function, all its arguments are the function's own, and a type checker compares
        them also where options are given.

        Raises `TaskArgumentError` for an argument that cannot be stored, `UnknownQueueError`, `QueueFullError`,
        `ConfigurationError` for a wrong option, and `NotStartedError` if the manager is not running.
        """
        options, rest = split_options(kwargs) if kwargs else (NO_OPTIONS, kwargs)
        task_id, native = self._outbox.add(func, args, rest, options)
        if native is not None:
            self.tasks.append(native)
        return task_id

    async def __call__(self) -> None:
        """Run the undecorated functions, and tasks that were appended directly; the response calls this.

        Declared tasks never run inside the request: the middleware lets them start.
        """
        # A running function may add more.
        for task in self.tasks:
            try:
                await (task() if isinstance(task, NativeCall) else BackgroundTasks([task])())
            except Exception:
                self._outbox.cancel_natives()
                raise
