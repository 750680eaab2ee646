"""The request that is being served, as a context variable."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from fastapi import FastAPI
from starlette.types import Scope

from taskflow_otel.engine.door import Door
from taskflow_otel.request.outbox import Outbox


class CurrentRequest(NamedTuple):
    """What FastAPI's functions have to find out about the request that they work for."""

    outbox: Outbox | None
    """What `BackgroundTasks` are made of; `None` where only `Depends(get_tasks)` is used."""
    outboxes: dict[int, Outbox]
    """Of all managers that take part."""
    scope: Scope
    home: FastAPI | None
    native: bool
    """The native annotation gets managed tasks too."""


current_request: ContextVar[CurrentRequest | None] = ContextVar("taskflow_otel_request", default=None)


def without_request() -> None:
    """Forget the request in this context, which outlives it."""
    current_request.set(None)


def new_outbox(door: Door, scope: Scope) -> Outbox:
    """The outbox of one request or WebSocket for one manager."""
    return Outbox(door, without_request, immediate=scope["type"] == "websocket")
