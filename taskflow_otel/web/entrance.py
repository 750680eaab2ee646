"""Access checks that run before the request body is read."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from starlette.types import Message

from taskflow_otel.web.auth import Actor

MAX_BODY = 256 * 1024
"""Bytes of a request's body; a thousand task ids take 40 KB."""

_ADMITTED = "taskflow_otel.admitted"
_Owner = TypeVar("_Owner")
_Decide = Callable[[_Owner, Request], Awaitable[Actor]]


def entrance(decide: _Decide[_Owner]) -> _Decide[_Owner]:
    """Mark a method that decides who may come in, for use as a FastAPI dependency; it decides once for a request.

    FastAPI reads and parses the body before it calls a dependency. A `TaskflowRoute` therefore calls its entrances
    itself, and the dependency returns what was decided.
    """

    @functools.wraps(decide)
    async def decide_once(owner: _Owner, request: Request) -> Actor:
        decided: dict[str, Actor] = request.scope.setdefault(_ADMITTED, {})
        if decide.__name__ not in decided:
            decided[decide.__name__] = await decide(owner, request)
        return decided[decide.__name__]

    decide_once.is_entrance = True  # type: ignore[attr-defined]  # a mark on a function
    return decide_once


def entrances(dependencies: Iterable[Callable[..., Any] | None]) -> list[Callable[..., Awaitable[Actor]]]:
    """The dependencies of a route that decide about access."""
    return [call for call in dependencies if call is not None and getattr(call, "is_entrance", False)]


def bounded(request: Request) -> Request:
    """The same request; reading a body of more than `MAX_BODY` bytes answers 413."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY:
        raise _too_large()
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise _too_large()
        return message

    return Request(request.scope, receive)


def _too_large() -> HTTPException:
    return HTTPException(413, detail=f"the request body is larger than {MAX_BODY // 1024} KiB; send less at a time")
