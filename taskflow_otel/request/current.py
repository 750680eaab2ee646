"""The current request, as a context variable."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from contextvars import ContextVar
from types import TracebackType
from typing import Self

from fastapi import FastAPI
from msgspec import Struct
from starlette.types import Scope

from taskflow_otel.compat.fastapi import stacks_of
from taskflow_otel.engine.door import Door
from taskflow_otel.request.outbox import Outbox

_SCOPE_KEY = "taskflow_otel.requests"
_NO_SCOPE: Scope = {"type": "over"}
_making = threading.Lock()


class RequestTasks(Struct, eq=False, weakref=True):
    """The tasks of one request or WebSocket for one manager.

    Most requests add no task, so the outbox is made when something asks for it. As an exit callback of FastAPI's
    stacks, this tells the outbox whether an exception has left the route or one of its dependencies.
    """

    # A struct, because each request makes one: it is filled in C.
    door: Door
    scope: Scope
    of_request: dict[int, RequestTasks]
    """Those of all managers in this request, by the identity of their doors; see `everyone`."""
    home: FastAPI | None = None
    """The application whose routes get these tasks by annotation; `None` if only `Depends(get_tasks)` is used."""
    installed: Callable[[], bool] | None = None
    """Whether the native annotation also gets managed tasks."""
    outbox: Outbox | None = None
    attached: bool = False
    """The end of the request is seen through FastAPI's exit stacks."""
    client_gone: BaseException | None = None
    """The error with which the server reported that the client is gone."""
    kept: bool = False
    """What is added after the end of the request runs: it has not failed."""
    request_stack: AsyncExitStack | None = None
    """The stack of the running route that gets this next."""

    @property
    def native(self) -> bool:
        """Whether the native annotation also gets managed tasks."""
        return self.installed is not None and self.installed()

    def make_outbox(self, scope: Scope | None = None) -> Outbox:
        """The outbox of this request, connected to the end of the route that is running in `scope` (default: its own).

        Callable from any thread.
        """
        outbox = self.outbox
        if outbox is None:
            with _making:
                outbox = self.outbox = self.outbox or self._new_outbox()
        if not self.attached:
            self._attach(scope or self.scope)
        return outbox

    def _new_outbox(self) -> Outbox:
        scope = self.scope
        outbox = Outbox(self.door, without_request, scope["type"] == "websocket", client_gone=self.client_gone)
        if scope is _NO_SCOPE:
            # Code of a request that is over.
            if self.kept:
                outbox.close()
            else:
                outbox.fail()
        return outbox

    def _attach(self, scope: Scope) -> None:
        """Connect the outbox to the end of the route that is running, if there is one."""
        stacks = stacks_of(scope)
        if stacks is not None and scope["type"] == "http":
            self.attached = True
            self.request_stack, function_stack = stacks
            # It closes after all dependencies were entered, so `__aexit__` is called before they finish.
            function_stack.push(self)

    def forget(self) -> None:
        """The request is over: what still knows these tasks must not keep the request alive."""
        of_request = self.of_request
        if self.scope.get(_SCOPE_KEY) is of_request:
            del self.scope[_SCOPE_KEY]
        self.scope = _NO_SCOPE
        if len(of_request) == 1 and of_request.get(id(self.door)) is self:
            # They know each other: only the garbage collector would free them, with all that the server keeps of the
            # request.
            of_request.clear()
        elif all(one.scope is _NO_SCOPE for one in of_request.values()):
            _part(of_request)

    @property
    def everyone(self) -> Collection[RequestTasks]:
        """The tasks of all managers in this request, also when it is over."""
        known = self.of_request.values()
        return known if self.scope is not _NO_SCOPE else (*known, self)

    def of(self, door: Door) -> RequestTasks | None:
        """The tasks of one manager in this request, also when it is over."""
        found = self.of_request.get(id(door))
        return self if found is None and self.door is door else found

    def __enter__(self) -> Self:
        """Complete the protocol; the stacks get this object when the route has begun."""
        return self

    async def __aenter__(self) -> Self:
        """The same for the request stack."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """FastAPI's function stack: the route has returned, or an exception has left it or a dependency."""
        stack, self.request_stack = self.request_stack, None
        outbox = self.outbox
        if outbox is None or stack is None:
            return
        stack.push_async_exit(self)
        if exc is not None:
            outbox.abandon()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """FastAPI's request stack: the response was sent, and the route's dependencies will finish now."""
        if self.outbox is not None and (exc is not None or self.outbox.natives):
            await self.outbox.leave_route(kind, exc, traceback)


def _part(of_request: dict[int, RequestTasks]) -> None:
    """Let the managers of a request that is over know each other in one direction only, so that they are freed with it.

    Code that the request has left behind has one of them as the current request, and finds the others from there: the
    innermost middleware's, or without a middleware the one that was asked for first.
    """
    found = [*of_request.values()]
    of_request.clear()
    asked_for = [one for one in reversed(found) if one.home is None]
    before: dict[int, RequestTasks] = {}
    for one in (*asked_for, *(one for one in found if one.home is not None)):
        one.of_request = dict(before)
        before[id(one.door)] = one


current_request: ContextVar[RequestTasks | None] = ContextVar("taskflow_otel_request", default=None)

without_request: Callable[[], object] = functools.partial(current_request.set, None)
"""Remove the request from this context, which outlives it."""


def requests_of(scope: Scope) -> dict[int, RequestTasks]:
    """The tasks of a request, for each manager by the identity of its door."""
    found: dict[int, RequestTasks] = scope.setdefault(_SCOPE_KEY, {})
    return found
