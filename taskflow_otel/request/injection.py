"""How routes get their `BackgroundTasks`: by the native annotation, by our annotation, or through `Depends`.

FastAPI calls our function for the object of the native annotation. The function reads a context variable. If that is
empty, as in requests of other applications, it does the same as FastAPI.
"""

from __future__ import annotations

from typing import Any

from fastapi import BackgroundTasks
from starlette.types import Scope

from taskflow_otel.compat.fastapi import asks_for, function_stack, make_background_tasks_by, request_stack
from taskflow_otel.engine.door import Door
from taskflow_otel.request.background import ManagedBackgroundTasks
from taskflow_otel.request.current import RequestTasks, current_request, requests_of
from taskflow_otel.request.endpoints import watch_endpoints, watch_routes
from taskflow_otel.request.outbox import Outbox
from taskflow_otel.request.stacks import at_the_end_of


def hook_fastapi() -> None:
    """Make FastAPI call our function; harmless to repeat. Raises `ConfigurationError` for an unknown FastAPI."""
    watch_endpoints()
    make_background_tasks_by(_make_background_tasks)


def tasks_of(door: Door, scope: Scope, tasks: BackgroundTasks) -> ManagedBackgroundTasks:
    """The managed tasks of one manager for a request, connected with those that FastAPI made for the response."""
    request = requests_of(scope).get(id(door))
    if request is None:
        outbox = _outbox_of_stacks(door, scope)
    else:
        outbox = request.make_outbox(scope)
        if isinstance(tasks, ManagedBackgroundTasks) and tasks.belongs_to(outbox):
            return tasks
    managed = ManagedBackgroundTasks(outbox)
    # One list, so that the response runs the undecorated functions of both in the order of their addition.
    managed.tasks = tasks.tasks
    outbox.look_after(tasks.tasks)
    return managed


def _outbox_of_stacks(door: Door, scope: Scope) -> Outbox:
    """An outbox for a request of an application without our middleware: FastAPI's exit stacks do the work."""
    watch_routes()
    current = current_request.get()
    # Its own callbacks see the end of the route.
    requests = requests_of(scope)
    request = requests[id(door)] = RequestTasks(door, scope, requests, attached=True)
    outbox = request.make_outbox()
    if current is not None:
        current.of_request[id(door)] = request
    if scope["type"] == "websocket":
        return outbox
    if current is None:
        current_request.set(request)

    async def before_response(*exc_info: Any) -> bool:
        await outbox.before_response(*exc_info)
        # All dependencies are entered now, so the next exit callback of the request sees the response's exception.
        request_stack(scope).push_async_exit(outbox.leave_response)
        return False

    async def after_request(*exc_info: Any) -> bool:
        if current is None:
            current_request.set(None)
        try:
            return await outbox.after_request(*exc_info)
        finally:
            request.forget()

    at_the_end_of(function_stack(scope), before_response)
    at_the_end_of(request_stack(scope), after_request)
    return outbox


def _make_background_tasks() -> BackgroundTasks:
    request = current_request.get()
    # A mounted application sets itself as `app` in the shared scope. It was not installed, so it stays native.
    if request is None or request.home is None or request.scope.get("app") is not request.home:
        return BackgroundTasks()
    if not request.native:
        request = _installed_beside(request)
        if not request.native and not asks_for(ManagedBackgroundTasks, request.scope):
            return BackgroundTasks()
    return ManagedBackgroundTasks(request.make_outbox())


def _installed_beside(request: RequestTasks) -> RequestTasks:
    """The tasks that the routes of this request get, if those of another manager are installed on its application."""
    return next((one for one in request.everyone if one.home is request.home and one.native), request)
