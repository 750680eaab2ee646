"""How routes get their `BackgroundTasks`: natively annotated, explicitly annotated, or through `Depends`.

FastAPI makes the object for the native annotation from the name `BackgroundTasks` in the module that solves
dependencies, and offers no hook. That name is replaced once per process by a function which asks a context
variable; without an answer there (every request of every other application) it does what FastAPI does.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import fastapi.dependencies.utils as solving
from fastapi import BackgroundTasks, FastAPI
from fastapi.dependencies.models import Dependant
from starlette.types import Scope

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.request.background import ManagedBackgroundTasks
from taskflow_otel.request.outbox import Outbox

_HOOK = "BackgroundTasks"


class _Request(NamedTuple):
    outbox: Outbox
    scope: Scope
    home: FastAPI
    native: bool
    """The native annotation gets managed tasks too."""


_current: ContextVar[_Request | None] = ContextVar("taskflow_otel_request", default=None)


@contextlib.contextmanager
def injecting(outbox: Outbox, scope: Scope, home: FastAPI, *, native: bool) -> Iterator[None]:
    """Have FastAPI inject this outbox's tasks while one request of `home` is served.

    Where not `native`, only into routes which name `ManagedBackgroundTasks` themselves, or in a dependency.
    """
    token = _current.set(_Request(outbox, scope, home, native))
    try:
        yield
    finally:
        _current.reset(token)


def hook_fastapi() -> None:
    """Make FastAPI ask; done once, harmless to repeat. Raises `ConfigurationError` for a FastAPI built otherwise."""
    present = getattr(solving, _HOOK, None)
    if present is _make_background_tasks:
        return
    if not (isinstance(present, type) and issubclass(present, BackgroundTasks)):
        raise ConfigurationError(
            "this version of FastAPI makes BackgroundTasks in a way that taskflow-otel does not know. "
            "Use Depends(task_manager.get_tasks), and report the FastAPI version."
        )
    setattr(solving, _HOOK, _make_background_tasks)


def _make_background_tasks() -> BackgroundTasks:
    request = _current.get()
    # A mounted application shares the scope, and names itself in it: it was not installed, so it stays native.
    if request is None or request.scope.get("app") is not request.home:
        return BackgroundTasks()
    if not request.native and not _asks_by_name(getattr(request.scope.get("route"), "dependant", None)):
        return BackgroundTasks()
    return ManagedBackgroundTasks(request.outbox)


def _asks_by_name(dependant: Dependant | None) -> bool:
    if dependant is None:
        return False
    name = dependant.background_tasks_param_name
    if name is not None and dependant.call is not None and _is_managed(dependant.call, name):
        return True
    return any(_asks_by_name(one) for one in dependant.dependencies)


@functools.lru_cache(maxsize=1024)
def _is_managed(call: Callable[..., Any], parameter: str) -> bool:
    annotation = solving.get_typed_signature(call).parameters[parameter].annotation
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return isinstance(annotation, type) and issubclass(annotation, ManagedBackgroundTasks)
