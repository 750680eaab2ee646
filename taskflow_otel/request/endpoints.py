"""Events between a route and its response that the exit stacks do not see.

A response may have background tasks that the endpoint made by hand. And an exception that leaves an endpoint or a
dependency fails the request, even if the application's own route class catches it and answers: FastAPI's exit stacks do
not see that. So we wrap the functions by which FastAPI's routes call the application's code; all but the one that calls
the endpoint only if there is such a route class, or an application without our middleware. For requests without managed
tasks, the wrappers do nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from starlette.background import BackgroundTask, BackgroundTasks
from starlette.responses import Response

from taskflow_otel.compat.fastapi import (
    ENDPOINT_CALL,
    ROUTE_FUNCTIONS,
    RouteFunction,
    has_errors,
    on_route_class,
    wrap_route_functions,
)
from taskflow_otel.request.current import RequestTasks, current_request
from taskflow_otel.request.outbox import is_hand_made


def watch_endpoints() -> None:
    """Wrap what is needed of FastAPI's functions; done once, harmless to repeat."""
    wrap_route_functions(_watched, [ENDPOINT_CALL])
    on_route_class(watch_routes)


def watch_routes() -> None:
    """Wrap all of FastAPI's functions that call the application's code; done once, harmless to repeat."""
    wrap_route_functions(_watched, ROUTE_FUNCTIONS)


def _watched(function: RouteFunction, calls_endpoint: bool) -> RouteFunction:
    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await function(*args, **kwargs)
            if not calls_endpoint:
                if has_errors(result):
                    # The dependencies were called, but the endpoint is not.
                    _withdraw()
            elif (request := current_request.get()) is not None and (
                request.outbox is not None or isinstance(result, Response)
            ):
                _adopt(result, request)
        except BaseException:
            _withdraw()
            raise
        return result

    return watched


def _withdraw() -> None:
    # Only now, because a dependency may have made the first outbox of the request.
    request = current_request.get()
    if request is None:
        return
    for one in request.everyone:
        if one.outbox is not None:
            one.outbox.abandon()


def _adopt(result: object, request: RequestTasks) -> None:
    """Give the declared tasks among hand-made background tasks to their managers."""
    for one in request.everyone:
        if one.outbox is not None:
            one.outbox.adopt_lists()
    background = result.background if isinstance(result, Response) else None
    if background is None:
        return
    single = type(background) is BackgroundTask
    tasks = [background] if single else background.tasks if isinstance(background, BackgroundTasks) else []
    for one in request.everyone:
        if any(is_hand_made(task, one.door) for task in tasks):
            one.make_outbox().adopt(tasks)
    if single and not tasks and isinstance(result, Response):
        result.background = None
