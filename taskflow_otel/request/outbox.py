"""The tasks of one request: collected while it runs, committed before its response, handed over after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from enum import Enum, auto
from types import TracebackType
from typing import Any

from msgspec import Struct
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from taskflow_otel.engine.door import Door
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.errors import BackendError
from taskflow_otel.model.enqueue import NO_OPTIONS, EnqueueOptions, checked_eager
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.request.bound import refuse_request_bound
from taskflow_otel.request.refusal import refusal_of


class _State(Enum):
    OPEN = auto()
    OVER = auto()
    """The request has succeeded: tasks that are added from now on start at once."""
    FAILED = auto()
    """The request has failed: tasks that are added from now on never run."""


class NativeCall(BackgroundTask):
    """An undecorated function among the background tasks of a response: it runs where FastAPI would run it.

    Not through `BackgroundTask.__call__`, which instrumentation replaces: there would be two spans.
    """

    def __init__(self, outbox: Outbox, task: LiveTask) -> None:
        super().__init__(task.definition.func, *(task.args or ()), **(task.kwargs or {}))
        self._outbox = outbox
        self._task = task

    async def __call__(self) -> None:
        """Run the function to its end; raises its exception."""
        await self._outbox.run_native(self._task)


class Outbox(Struct, eq=False, weakref=True):
    """Collects the tasks of one request.

    Declared tasks may start when the request is over. Undecorated functions (`natives`) run inside it, one after the
    other, because the response calls them. `immediate`: there is no response (a WebSocket), so each task starts once it
    is committed. `leave` makes a context forget the request; it is called in that of each task.
    """

    # A struct, because each request with tasks makes one: it is filled in C.
    door: Door
    leave: Callable[[], object]
    immediate: bool = False
    uncommitted: bool = False
    """Tasks were added since the last commit."""
    client_gone: BaseException | None = None
    """The error with which the server reported that the client is gone."""
    natives: dict[LiveTask, None] = {}
    """Undecorated functions that wait for the response to call them."""
    _state: _State = _State.OPEN
    _eager: list[LiveTask] = []
    _new: list[LiveTask] = []
    _waiting: list[LiveTask] = []
    _lists: list[list[BackgroundTask]] = []
    _native_error: BaseException | None = None

    def add(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> tuple[str, NativeCall | None]:
        """Add a task; return its id, and its call if it runs inside the request.

        Callable from the thread of a sync route.
        """
        at_once, outlives = None, self.immediate
        if options is not NO_OPTIONS:
            at_once = checked_eager(options.eager)
            outlives = outlives or at_once is True or options.delay is not None or options.run_at is not None
        if args or kwargs:
            refuse_request_bound(func, args, kwargs, lambda: outlives or self.door.is_declared(func))
        if options.session is None:
            task_id, task = self.door.add(func, args, kwargs, options)
        else:
            # It belongs to that transaction and not to the request, which its context must not keep alive.
            context = copy_context()
            context.run(self.leave)
            task_id, task = context.run(self.door.add, func, args, kwargs, options)
        if task is None:
            return task_id, None
        if task.context is not None:
            # The task may wait long: its context variables must not keep the request alive.
            task.context.run(self.leave)
        if at_once is None:
            at_once = task.definition.config.eager
        if at_once or self.immediate:
            self.door.start_soon(task)
            if task.durable and self._state is _State.OPEN:
                # It starts now, but the response still waits for its commit.
                self._eager.append(task)
                self.uncommitted = True
            return task_id, None
        native = task.definition.codec is None and not outlives and self._state is _State.OPEN
        if native:
            self.natives[task] = None
        self._new.append(task)
        self.uncommitted = True
        # Checked after the task was added: the code that ends the request sees the task, or this check sees the end.
        if self._state is not _State.OPEN:
            self.door.call_on_loop(self._take_late)
        return task_id, NativeCall(self, task) if native else None

    def look_after(self, tasks: list[BackgroundTask]) -> None:
        """Remember a list of background tasks to which user code can append."""
        self._lists.append(tasks)

    def adopt_lists(self) -> None:
        """Add the declared tasks that user code appended to its lists by hand."""
        for tasks in self._lists:
            if tasks:
                self.adopt(tasks)

    def adopt(self, tasks: list[BackgroundTask]) -> None:
        """Move the declared tasks from a list of background tasks into this outbox."""
        for one in [one for one in tasks if is_hand_made(one, self.door)]:
            tasks.remove(one)
            self.add(one.func, tuple(one.args), dict(one.kwargs), NO_OPTIONS)

    def publish(self) -> bool:
        """Publish the tasks added so far if none of them needs a commit; return whether that is so."""
        if self._eager or self.natives:
            return False
        # First: a task that a thread adds now sets it again.
        self.uncommitted = False
        tasks, self._new = self._new, []
        if not self.door.publish(tasks):
            self._new[:0] = tasks
            self.uncommitted = True
            return False
        self._waiting = self._waiting + tasks if self._waiting else tasks
        return True

    async def deliver(self) -> None:
        """Commit and publish the tasks added so far; raises `BackendError`, and then none of them runs."""
        # First: a task that a thread adds now sets it again.
        self.uncommitted = False
        tasks, self._new = self._new, []
        eager, self._eager = self._eager, []
        # Also after a cancellation: committed tasks must be handed over or withdrawn like all others.
        self._waiting += [task for task in tasks if task not in self.natives] if self.natives else tasks
        try:
            await self.door.make_known(tasks)
        except BackendError:
            for task in tasks:
                self.natives.pop(task, None)
            raise
        if eager:
            await self.door.arrived(eager)

    async def run_native(self, task: LiveTask) -> None:
        """Run an undecorated function inside the request; raises its exception, and then the rest never runs."""
        if self.uncommitted:
            # Another function has just added it.
            await self.deliver()
        if task not in self.natives:
            return
        del self.natives[task]
        if self.door.open:
            self.door.hand_over([task])
        else:
            self.door.withdraw([task], Reason.SHUTDOWN)
        await self.door.finished(task)
        if task.error is not None:
            self._native_error = task.error
            self.cancel_natives()
            raise task.error

    def cancel_natives(self) -> None:
        """An undecorated function of this request has failed: the later ones never run."""
        natives, self.natives = list(self.natives), {}
        if natives:
            self._new = [task for task in self._new if task not in natives]
            self.door.withdraw(natives, Reason.EARLIER_FAILED)

    def close(self) -> None:
        """The request is over: let its tasks and later ones start, unless the request has failed."""
        if self._state is _State.FAILED:
            return
        self._state = _State.OVER
        tasks, self._waiting = self._waiting, []
        if self.natives:
            # Natives that no response has called (it was replaced by another one) run now.
            tasks = [*tasks, *(task for task in self.natives if task.known)]
            self.natives.clear()
        self._lists.clear()
        if tasks:
            self.door.hand_over(tasks)
        if self._new:
            self._take_late()

    def abandon(self) -> None:
        """An exception left the route or a dependency: the tasks added so far never run."""
        tasks = [*self._new, *self._waiting, *(task for task in self.natives if task not in self._new)]
        self._new, self._waiting = [], []
        self.natives.clear()
        if tasks:
            self.door.withdraw(tasks, Reason.REQUEST_FAILED)

    def fail(self) -> None:
        """The request has failed: its tasks, and those that are added from now on, never run."""
        self._state = _State.FAILED
        self._lists.clear()
        self.abandon()

    def is_failure(self, exc: BaseException) -> bool:
        """Whether an exception that leaves the request means that the request has failed.

        Not if it comes from an undecorated function, which ran after the response, or from a client that is gone.
        """
        return exc is not self._native_error and is_failure(exc, self.client_gone)

    async def leave_route(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Exit callback of FastAPI's stack: the route's dependencies will finish now, or have failed."""
        if exc is None:
            for task in list(self.natives):
                # The response has its own background tasks, or was replaced.
                await self.run_native(task)
        elif not isinstance(exc, asyncio.CancelledError) and self.is_failure(exc):
            self.fail()
        return False

    async def before_response(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Last exit callback of FastAPI's function stack: commit after the route has returned."""
        if exc is not None:
            self.fail()
            return False
        try:
            await self.deliver()
        except BackendError as error:
            raise HTTPException(*refusal_of(error)) from error
        return False

    async def leave_response(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """First exit callback of FastAPI's request stack: the response was sent, or failed."""
        if isinstance(exc, (OSError, ClientDisconnect)):
            self.client_gone = exc
        return await self.leave_route(_type, exc, _traceback)

    async def after_request(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Last exit callback of FastAPI's request stack: the request is over, so its tasks may start."""
        if exc is not None and self.is_failure(exc):
            self.fail()
            return False
        if self.uncommitted:
            await self.deliver()
        self.close()
        return False

    def _take_late(self) -> None:
        tasks, self._new = self._new, []
        if self._state is _State.FAILED:
            self.door.withdraw(tasks, Reason.REQUEST_FAILED)
            return
        for task in tasks:
            self.natives.pop(task, None)
            self.door.start_soon(task)


def is_failure(exc: BaseException, gone: BaseException | None) -> bool:
    """Whether an exception fails its request; `gone`: the server's error that says that the client is gone."""
    return gone is None or not (exc is gone or isinstance(exc, (ClientDisconnect, BaseExceptionGroup)))


def is_hand_made(task: BackgroundTask, door: Door) -> bool:
    """Whether a background task that user code made is a declared task of this manager."""
    return type(task) is BackgroundTask and door.is_declared(task.func)
