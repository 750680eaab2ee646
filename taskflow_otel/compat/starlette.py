"""Starlette: whether an application has started, the place of its middlewares, and its lifespan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Scope

_WRITTEN = "taskflow_otel.written"
"""The key of the scope with the address that was asked for first."""

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def has_started(app: Starlette) -> bool:
    """Whether an application has built its middleware stack: no more can be added."""
    return app.middleware_stack is not None


def add_middlewares(app: Starlette, *, innermost: Middleware, outermost: Middleware) -> None:
    """Add a middleware next to the application, and one around all others, including later ones."""
    app.user_middleware.append(innermost)
    build = app.build_middleware_stack

    def build_with_outermost() -> ASGIApp:
        app.user_middleware = [outermost, *(one for one in app.user_middleware if one is not outermost)]
        return build()

    # Middlewares added after this call go further out, so the outermost one is added when the stack is built.
    app.build_middleware_stack = build_with_outermost  # type: ignore[method-assign]  # no hook for that


def settings_of(app: Starlette, middleware: type) -> list[Mapping[str, Any]]:
    """The keyword arguments of each middleware of this class that was added to an application."""
    added: list[Any] = list(app.user_middleware)
    return [one.kwargs for one in added if one.cls is middleware]


def wrap_lifespan(app: Starlette, wrap: Callable[[Lifespan], Lifespan]) -> None:
    """Replace the lifespan of an application by one made from it.

    Starlette has no other way to give a lifespan to an existing application.
    """
    app.router.lifespan_context = wrap(app.router.lifespan_context)


def wrap_default(app: Starlette, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    """Replace the application that answers what no route of `app` has taken by one made from it."""
    app.router.default = wrap(app.router.default)


def is_slash_tried(scope: Scope) -> bool:
    """Whether a router asks its routes for a redirect: a copy of the scope, with a slash at its end more or less.

    To be called once by each route that is asked. The router asks all of them first about the address that the client
    wrote; a mounted router asks about an address of its own.
    """
    place = (str(scope.get("root_path", "")), str(scope.get("path", "")))
    written: tuple[str, str] = scope.setdefault(_WRITTEN, place)
    if written == place:
        return False
    if written[0] != place[0]:
        scope[_WRITTEN] = place
        return False
    return True
