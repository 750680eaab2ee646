"""How routes get their `BackgroundTasks`: natively annotated, explicitly annotated, or through `Depends`.

FastAPI makes the object for the native annotation from the name `BackgroundTasks` in the module that solves
dependencies, and offers no hook. That name is replaced once per process by a function which asks a context
variable; without an answer there (every request of every other application) it does what FastAPI does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import fastapi.dependencies.utils as solving
from fastapi import BackgroundTasks, FastAPI
from starlette.types import Scope

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.background import ManagedBackgroundTasks
from taskflow_otel.web.outbox import Outbox

_HOOK = "BackgroundTasks"


class _Request(NamedTuple):
    outbox: Outbox
    scope: Scope
    home: FastAPI


_current: ContextVar[_Request | None] = ContextVar("taskflow_otel_request", default=None)


@contextlib.contextmanager
def injecting(outbox: Outbox, scope: Scope, home: FastAPI, *, active: bool) -> Iterator[None]:
    """Have FastAPI inject this outbox's tasks while one request of `home` is served."""
    token = _current.set(_Request(outbox, scope, home) if active else None)
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
    return ManagedBackgroundTasks(request.outbox)
