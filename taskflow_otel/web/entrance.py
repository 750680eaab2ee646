"""Access checks that run before the request body is read."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, TypeVar

from fastapi import HTTPException, Request, Response
from starlette.background import BackgroundTasks
from starlette.types import Message

from taskflow_otel.web.auth import Actor

MAX_BODY = 256 * 1024
"""Bytes of a request's body; a thousand task ids take 40 KB."""

_ADMITTED = "taskflow_otel.admitted"
_ALLOWED = "taskflow_otel.parameters"
_ADDITION = "taskflow_otel.addition"
_ACTOR = "taskflow_otel.actor"
_Owner = TypeVar("_Owner")
_Decide = Callable[[_Owner, Request], Awaitable[Actor]]
Entrance = Callable[[Request], Awaitable[Actor]]


def entrance(decide: _Decide[_Owner]) -> _Decide[_Owner]:
    """Mark a method that decides who may come in, for use as a FastAPI dependency; it decides once for a request.

    FastAPI reads and parses the body before it calls a dependency. A `TaskflowRoute` therefore calls its entrances
    itself, and the dependency returns what was decided.
    """

    @functools.wraps(decide)
    async def decide_once(owner: _Owner, request: Request) -> Actor:
        # By the function and not by its name: entrances of one name may need different scopes.
        decided: dict[_Decide[Any], Actor] = request.scope.setdefault(_ADMITTED, {})
        if decide not in decided:
            decided[decide] = await decide(owner, request)
        return decided[decide]

    decide_once.is_entrance = True  # type: ignore[attr-defined]  # a mark on a function
    return decide_once


def note_actor(request: Request, actor: Actor) -> Actor:
    """Remember who a request is from, also if it is refused afterwards."""
    request.scope[_ACTOR] = actor
    return actor


def actor_of(request: Request) -> Actor | None:
    """The user of a request; `None` if no one is known."""
    actor: Actor | None = request.scope.get(_ACTOR)
    return actor


def entrances(dependencies: Iterable[Callable[..., Any] | None]) -> list[Entrance]:
    """The dependencies of a route that decide about access."""
    return [call for call in dependencies if call is not None and getattr(call, "is_entrance", False)]


def allow_parameters(request: Request, names: Collection[str]) -> None:
    """Let a request have further query parameters, which an entrance reads."""
    request.scope[_ALLOWED] = frozenset(names)


def allowed_parameters(request: Request) -> frozenset[str]:
    """The query parameters that belong to an entrance, and not to the route."""
    allowed: frozenset[str] = request.scope.get(_ALLOWED, frozenset())
    return allowed


def add_to_answer(request: Request, addition: Response) -> None:
    """Let the answer have what an entrance has added to a response: headers, cookies, background tasks."""
    request.scope[_ADDITION] = addition


def complete(request: Request, response: Response) -> None:
    """Add what entrances have added."""
    addition: Response | None = request.scope.get(_ADDITION)
    if addition is None:
        return
    response.raw_headers.extend(pair for pair in addition.raw_headers if not pair[0].startswith(b"content-"))
    if addition.background is not None:
        tasks = [addition.background] if response.background is None else [addition.background, response.background]
        response.background = BackgroundTasks(tasks)


def entrance_names(dependencies: Iterable[Callable[..., Any] | None]) -> set[str]:
    """The names of the entrances among the dependencies of a route: who may come in."""
    return {entrance.__name__ for entrance in entrances(dependencies)}


def bounded(request: Request) -> Request:
    """The same request; reading more than `MAX_BODY` bytes of its body answers 413."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise _too_large()
        return message

    return Request(request.scope, receive)


def refuse_large_body(request: Request) -> None:
    """Answer 413 to a body that is declared to be larger than `MAX_BODY` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY:
        raise _too_large()


def _too_large() -> HTTPException:
    return HTTPException(413, detail=f"the request body is larger than {MAX_BODY // 1024} KiB; send less at a time")
