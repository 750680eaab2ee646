"""The tasks of one request: collected while it runs, committed before its response, released after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Any, NamedTuple

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from taskflow_otel.engine.door import Door
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.errors import BackendError
from taskflow_otel.model.enqueue import NO_OPTIONS, EnqueueOptions, checked_eager
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.request.bound import refuse_request_bound

NOT_KEPT = (
    "The request was understood, but its background tasks could not be stored, so nothing of it was started. "
    "Try again in a moment."
)
RETRY_AFTER = "1"


class _State(Enum):
    OPEN = auto()
    OVER = auto()
    """The request has ended well: what is added from now on starts at once."""
    FAILED = auto()
    """The request has failed: what is added from now on never runs."""


class Added(NamedTuple):
    """The id of a task, and its call where it is to run inside the request."""

    task_id: str
    native: NativeCall | None


class NativeCall(BackgroundTask):
    """An undecorated function among the background tasks of a response: run where FastAPI would run it, and observed.

    Not through `BackgroundTask.__call__`, which instrumentation replaces: there would be two spans.
    """

    def __init__(self, outbox: Outbox, task: LiveTask) -> None:
        super().__init__(task.definition.func, *(task.args or ()), **(task.kwargs or {}))
        self._outbox = outbox
        self._task = task

    async def __call__(self) -> None:
        """Run the function and return once it has ended; raises what it raised."""
        await self._outbox.run_native(self._task)


class Outbox:
    """Collects the tasks of one request.

    Declared tasks are released when the request is over. Undecorated functions (`natives`) run inside it, one after
    the other, because the response calls them. `immediate`: there is no response to wait for (a WebSocket), so each
    task starts once it is committed. `leave` makes a context forget the request; it is called in that of each task.
    """

    __slots__ = (
        "_eager", "_immediate", "_leave", "_lists", "_native_error", "_natives", "_new", "_state", "_waiting",
        "attached", "client_gone", "door",
    )  # fmt: skip

    def __init__(self, door: Door, leave: Callable[[], None], *, immediate: bool = False) -> None:
        self.door = door
        self._leave = leave
        self.attached = False
        """FastAPI's exit stacks of this request know of it."""
        self.client_gone: BaseException | None = None
        """The error by which the server said that the client is gone."""
        self._immediate = immediate
        self._state = _State.OPEN
        self._eager: list[LiveTask] = []
        self._new: list[LiveTask] = []
        self._waiting: list[LiveTask] = []
        self._natives: dict[LiveTask, None] = {}
        self._native_error: BaseException | None = None
        self._lists: list[list[BackgroundTask]] = []

    @property
    def uncommitted(self) -> bool:
        """Whether tasks were added since the last commit."""
        return bool(self._new or self._eager)

    def add(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> Added:
        """Add a task; callable from the thread of a sync route."""
        at_once = checked_eager(options.eager)
        outlives = self._immediate or at_once is True or options.delay is not None or options.run_at is not None
        refuse_request_bound(func, args, kwargs, lambda: outlives or self.door.is_declared(func))
        task_id, task = self.door.add(func, args, kwargs, options)
        if task is None:
            return Added(task_id, None)
        if task.context is not None:
            # The task may wait for long: its context variables must not keep the request.
            task.context.run(self._leave)
        if at_once is None:
            at_once = task.definition.config.eager
        if at_once or self._immediate:
            self.door.start_soon(task)
            if task.durable and self._state is _State.OPEN:
                # It starts now, but the response still waits for its commit.
                self._eager.append(task)
            return Added(task_id, None)
        native = task.definition.codec is None and not outlives and self._state is _State.OPEN
        if native:
            self._natives[task] = None
        self._new.append(task)
        # Looked at after the task was put there: whoever ends the request in another thread sees one or the other.
        if self._state is not _State.OPEN:
            self.door.call_on_loop(self._take_late)
        return Added(task_id, NativeCall(self, task) if native else None)

    def look_after(self, tasks: list[BackgroundTask]) -> None:
        """Remember a list of background tasks that user code can append to."""
        self._lists.append(tasks)

    def adopt_lists(self) -> None:
        """Take over the declared tasks that user code appended to its lists by hand."""
        for tasks in self._lists:
            if tasks:
                self.adopt(tasks)

    def adopt(self, tasks: list[BackgroundTask]) -> bool:
        """Take the declared tasks out of a list of background tasks and add them; whether there were any."""
        declared = [one for one in tasks if type(one) is BackgroundTask and self.door.is_declared(one.func)]
        for one in declared:
            tasks.remove(one)
            self.add(one.func, tuple(one.args), dict(one.kwargs), NO_OPTIONS)
        return bool(declared)

    async def deliver(self) -> None:
        """Make the tasks added so far known, persisted ones durably; raises `BackendError`, and then none will run."""
        tasks, self._new = self._new, []
        eager, self._eager = self._eager, []
        # Also if this is cancelled: what is committed by then is to be released or discarded, like all the others.
        self._waiting += [task for task in tasks if task not in self._natives] if self._natives else tasks
        try:
            await self.door.make_known(tasks)
        except BackendError:
            for task in tasks:
                self._natives.pop(task, None)
            raise
        if eager:
            await self.door.arrived(eager)

    async def run_native(self, task: LiveTask) -> None:
        """Run an undecorated function inside the request; raises what it raised, and then the rest never runs."""
        if self.uncommitted:
            # Added by another one, a moment ago.
            await self.deliver()
        if task not in self._natives:
            return
        del self._natives[task]
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
        """An undecorated function of this request has failed: those after it never run."""
        natives, self._natives = list(self._natives), {}
        if natives:
            self._new = [task for task in self._new if task not in natives]
            self.door.withdraw(natives, Reason.EARLIER_FAILED)

    def close(self) -> None:
        """The request is over: let its tasks start, and what is added from now on at once; nothing if it has failed."""
        if self._state is _State.FAILED:
            return
        self._state = _State.OVER
        # Natives that no response has called (it was replaced by one without them) run now.
        tasks, self._waiting = [*self._waiting, *(task for task in self._natives if task.known)], []
        self._natives.clear()
        self._lists.clear()
        if tasks:
            self.door.hand_over(tasks)
        if self._new:
            self._take_late()

    def abandon(self) -> None:
        """An exception left the route or one of its dependencies: what was added until now never runs."""
        tasks = [*self._new, *self._waiting, *(task for task in self._natives if task not in self._new)]
        self._new, self._waiting = [], []
        self._natives.clear()
        if tasks:
            self.door.withdraw(tasks, Reason.REQUEST_FAILED)

    def fail(self) -> None:
        """The request has failed: its tasks never run, nor does what is added from now on."""
        self._state = _State.FAILED
        self._lists.clear()
        self.abandon()

    def is_failure(self, exc: BaseException) -> bool:
        """Whether an exception that leaves the request means that the request has failed.

        Not one of an undecorated function, which ran after the response, nor the news that the client is gone.
        """
        if exc is self._native_error:
            return False
        gone = self.client_gone
        return gone is None or not (exc is gone or isinstance(exc, (ClientDisconnect, BaseExceptionGroup)))

    async def leave_route(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """The route's dependencies are about to finish, or have failed; as an exit callback of FastAPI's stack."""
        if exc is None:
            for task in list(self._natives):
                # The response has a background of its own, or was made anew without this one.
                await self.run_native(task)
        elif not isinstance(exc, asyncio.CancelledError) and self.is_failure(exc):
            self.fail()
        return False

    async def before_response(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Commit when the route has returned; as the last exit callback of FastAPI's function stack."""
        if exc is not None:
            self.fail()
            return False
        try:
            await self.deliver()
        except BackendError as error:
            raise HTTPException(503, NOT_KEPT, {"Retry-After": RETRY_AFTER}) from error
        return False

    async def leave_response(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """The response was sent, or could not be; as the first exit callback of FastAPI's request stack."""
        if isinstance(exc, (OSError, ClientDisconnect)):
            self.client_gone = exc
        return await self.leave_route(_type, exc, _traceback)

    async def after_request(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Release when the request is over; as the last exit callback of FastAPI's request stack."""
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
            self._natives.pop(task, None)
            self.door.start_soon(task)


_SCOPE_KEY = "taskflow_otel.outboxes"


def outboxes_of(scope: Scope) -> dict[int, Outbox]:
    """The outboxes of a request by the identity of their door: it has one for each manager that takes part."""
    outboxes: dict[int, Outbox] = scope.setdefault(_SCOPE_KEY, {})
    return outboxes
