"""How routes get their `BackgroundTasks`: by the native annotation, by our annotation, or through `Depends`.

FastAPI calls our function for the object of the native annotation. The function reads a context variable. If that is
empty, as in requests of other applications, it does the same as FastAPI.
"""

from __future__ import annotations

from contextvars import Token
from typing import Any

from fastapi import BackgroundTasks, FastAPI
from starlette.types import Scope

from taskflow_otel.compat.fastapi import asks_for, function_stack, make_background_tasks_by, request_stack
from taskflow_otel.engine.door import Door
from taskflow_otel.request.background import ManagedBackgroundTasks
from taskflow_otel.request.current import CurrentRequest, current_request, new_outbox
from taskflow_otel.request.endpoints import watch_endpoints
from taskflow_otel.request.outbox import Outbox, outboxes_of
from taskflow_otel.request.stacks import at_the_end_of, attach


def inject(outbox: Outbox, scope: Scope, home: FastAPI, *, native: bool) -> Token[CurrentRequest | None]:
    """Let FastAPI inject this outbox's tasks while one request of `home` is served: until the token is reset.

    If not `native`, only for routes or dependencies that name `ManagedBackgroundTasks`.
    """
    outboxes = outboxes_of(scope)
    outboxes[id(outbox.door)] = outbox
    request = CurrentRequest(outbox, outboxes, scope, home, native)
    outer = current_request.get()
    if not native and outer is not None and outer.native and outer.home is home:
        # The routes of this application get the tasks of another manager.
        request = outer._replace(outboxes=outboxes, scope=scope)
    return current_request.set(request)


def hook_fastapi() -> None:
    """Make FastAPI call our function; harmless to repeat. Raises `ConfigurationError` for an unknown FastAPI."""
    watch_endpoints()
    make_background_tasks_by(_make_background_tasks)


def tasks_of(door: Door, scope: Scope, tasks: BackgroundTasks) -> ManagedBackgroundTasks:
    """The managed tasks of one manager for a request, connected with those that FastAPI made for the response."""
    outbox = outboxes_of(scope).get(id(door))
    if outbox is None:
        outbox = _outbox_of_stacks(door, scope)
    elif isinstance(tasks, ManagedBackgroundTasks) and tasks.belongs_to(outbox):
        return tasks
    if scope["type"] == "http":
        attach(outbox, scope)
    managed = ManagedBackgroundTasks(outbox)
    # One list, so that the response runs the undecorated functions of both in the order of their addition.
    managed.tasks = tasks.tasks
    outbox.look_after(tasks.tasks)
    return managed


def _outbox_of_stacks(door: Door, scope: Scope) -> Outbox:
    """An outbox for a request of an application without our middleware: FastAPI's exit stacks do the work."""
    watch_endpoints()
    outbox = new_outbox(door, scope)
    current = current_request.get()
    outboxes = outboxes_of(scope) if current is None else current.outboxes
    outboxes[id(door)] = outboxes_of(scope)[id(door)] = outbox
    if scope["type"] == "websocket":
        return outbox
    outbox.attached = True
    if current is None:
        current_request.set(CurrentRequest(None, outboxes, scope, None, native=False))

    async def before_response(*exc_info: Any) -> bool:
        await outbox.before_response(*exc_info)
        # All dependencies are entered now, so the next exit callback of the request sees the response's exception.
        request_stack(scope).push_async_exit(outbox.leave_response)
        return False

    async def after_request(*exc_info: Any) -> bool:
        if current is None:
            current_request.set(None)
        return await outbox.after_request(*exc_info)

    at_the_end_of(function_stack(scope), before_response)
    at_the_end_of(request_stack(scope), after_request)
    return outbox


def _make_background_tasks() -> BackgroundTasks:
    request = current_request.get()
    # A mounted application sets itself as `app` in the shared scope. It was not installed, so it stays native.
    if request is None or request.outbox is None or request.scope.get("app") is not request.home:
        return BackgroundTasks()
    if not request.native and not asks_for(ManagedBackgroundTasks, request.scope):
        return BackgroundTasks()
    if request.scope["type"] == "http":
        attach(request.outbox, request.scope)
    return ManagedBackgroundTasks(request.outbox)
