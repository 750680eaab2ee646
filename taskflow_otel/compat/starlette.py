"""Starlette: when an application has started, where its middlewares go, and its lifespan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def has_started(app: Starlette) -> bool:
    """Whether an application has built its middlewares, so that no further one gets in."""
    return app.middleware_stack is not None


def add_middlewares(app: Starlette, *, innermost: Middleware, outermost: Middleware) -> None:
    """Put a middleware around the application itself, and one around all others that will have been added."""
    app.user_middleware.append(innermost)
    build = app.build_middleware_stack

    def build_with_outermost() -> ASGIApp:
        app.user_middleware = [outermost, *(one for one in app.user_middleware if one is not outermost)]
        return build()

    # Middlewares added after this call go further out, so the outermost place is taken when the stack is built.
    app.build_middleware_stack = build_with_outermost  # type: ignore[method-assign]  # no hook for that


def wrap_lifespan(app: Starlette, wrap: Callable[[Lifespan], Lifespan]) -> None:
    """Replace the lifespan of an application by one made from it.

    An application that exists cannot be given a lifespan otherwise.
    """
    app.router.lifespan_context = wrap(app.router.lifespan_context)
