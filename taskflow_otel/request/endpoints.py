"""What happens between a route and its response, where no exit stack sees it.

An exception that leaves an endpoint or a dependency fails the request, also when a route class of the application's own
catches it and answers: FastAPI's exit stacks see nothing of that. And a response may carry background tasks that the
endpoint made by hand. FastAPI offers no hook for either, so the functions by which its routes call the
application's code are wrapped, once per process; for requests without tasks of ours the wrappers do nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import fastapi.routing as routing
from fastapi.dependencies.utils import SolvedDependency
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.responses import Response

from taskflow_otel.request.current import current_request
from taskflow_otel.request.stacks import attach

_WATCHED = ("solve_dependencies", "run_endpoint_function", "serialize_response")


_wrappers: set[Callable[..., Awaitable[Any]]] = set()


def watch_endpoints() -> None:
    """Wrap FastAPI's functions; done once, harmless to repeat. One that this FastAPI does not have is left out."""
    for name in _WATCHED:
        present = getattr(routing, name, None)
        if present is not None and present not in _wrappers:
            wrapper = _watched(present, endpoint=name == "run_endpoint_function")
            _wrappers.add(wrapper)
            setattr(routing, name, wrapper)


def _watched(function: Callable[..., Awaitable[Any]], *, endpoint: bool) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await function(*args, **kwargs)
            if endpoint:
                _adopt(result)
            elif isinstance(result, SolvedDependency) and result.errors:
                # The endpoint is not called; its dependencies were.
                _withdraw()
        except BaseException:
            _withdraw()
            raise
        return result

    return watched


def _withdraw() -> None:
    # Asked for only now: a dependency may have made the first outbox of the request.
    request = current_request.get()
    if request is None:
        return
    for outbox in request.outboxes.values():
        outbox.abandon()


def _adopt(result: object) -> None:
    """Give the declared tasks among background tasks that were made by hand to their managers."""
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
