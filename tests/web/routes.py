"""The routes of an application, whether they are documented or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute


def every_route(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of each route of the administration."""
    found = {
        # `{name:path}` is documented as `{name}`.
        (method, route.path.replace(":path}", "}"))
        for route in _api_routes(app.routes)
        for method in route.methods or ()
    }
    documented = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert documented <= found
    assert len(found) > len(documented)
    return sorted((method, path) for method, path in found if path.startswith("/tasks"))


def _api_routes(routes: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            # Newer versions of FastAPI keep an included router as it is.
            yield from _api_routes(getattr(getattr(route, "original_router", None), "routes", ()))
