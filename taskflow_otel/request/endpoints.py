"""Events between a route and its response that the exit stacks do not see.

An exception that leaves an endpoint or a dependency fails the request, even if the application's own route class
catches it and answers: FastAPI's exit stacks do not see that. Also, a response may have background tasks that the
endpoint made by hand. So we wrap the functions by which FastAPI's routes call the application's code. For requests
without managed tasks, the wrappers do nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from starlette.background import BackgroundTask, BackgroundTasks
from starlette.responses import Response

from taskflow_otel.compat.fastapi import RouteFunction, has_errors, wrap_route_functions
from taskflow_otel.request.current import current_request
from taskflow_otel.request.stacks import attach


def watch_endpoints() -> None:
    """Wrap FastAPI's functions; done once, harmless to repeat."""
    wrap_route_functions(_watched)


def _watched(function: RouteFunction, calls_endpoint: bool) -> RouteFunction:
    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await function(*args, **kwargs)
            if calls_endpoint:
                _adopt(result)
            elif has_errors(result):
                # The dependencies were called, but the endpoint is not.
                _withdraw()
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
    for outbox in request.outboxes.values():
        outbox.abandon()


def _adopt(result: object) -> None:
    """Give the declared tasks among hand-made background tasks to their managers."""
    request = current_request.get()
    if request is None:
        return
    for outbox in request.outboxes.values():
        outbox.adopt_lists()
    background = result.background if isinstance(result, Response) else None
    if background is None:
        return
    single = type(background) is BackgroundTask
    tasks = [background] if single else background.tasks if isinstance(background, BackgroundTasks) else []
    for outbox in request.outboxes.values():
        if tasks and outbox.adopt(tasks):
            attach(outbox, request.scope)
    if single and not tasks and isinstance(result, Response):
        result.background = None
