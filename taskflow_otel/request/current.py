"""The current request, as a context variable."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from fastapi import FastAPI
from starlette.types import Scope

from taskflow_otel.engine.door import Door
from taskflow_otel.request.outbox import Outbox


class CurrentRequest(NamedTuple):
    """What the wrappers of FastAPI's functions need to know about their request."""

    outbox: Outbox | None
    """Makes the `BackgroundTasks`; `None` if only `Depends(get_tasks)` is used."""
    outboxes: dict[int, Outbox]
    """Those of all managers in this request."""
    scope: Scope
    home: FastAPI | None
    native: bool
    """The native annotation also gets managed tasks."""


current_request: ContextVar[CurrentRequest | None] = ContextVar("taskflow_otel_request", default=None)


def without_request() -> None:
    """Remove the request from this context, which outlives it."""
    current_request.set(None)


def new_outbox(door: Door, scope: Scope) -> Outbox:
    """The outbox of one request or WebSocket for one manager."""
    return Outbox(door, without_request, immediate=scope["type"] == "websocket")
