"""What OpenAPI says of every route: a name for generated clients, who may call it, and the errors that it answers."""

from __future__ import annotations

import re

from fastapi import APIRouter, Depends

from taskflow_otel.compat.fastapi import dependency_calls
from taskflow_otel.web.entrance import entrance_names
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.routing import TaskflowRoute, errors

_OF_EVERY_ROUTE = (401, 403, 413, 421, 422, 429, 503)
"""What each route with an entrance can answer: who asks, under which name, and how, is decided everywhere alike."""


def document(router: APIRouter, guard: Guard) -> None:
    """Complete the documentation of all routes, before the router is included in an application."""
    for route in router.routes:
        if isinstance(route, TaskflowRoute) and route.include_in_schema:
            _document(route, guard)


def _document(route: TaskflowRoute, guard: Guard) -> None:
    # Two administrations of one application have different paths, and the name of an operation must be unique.
    route.operation_id = "_".join([*re.findall(r"\w+", route.home), route.name])
    decided_by = entrance_names(dependency_calls(route.dependant))
    if not decided_by:
        return
    route.dependencies.extend(Depends(scheme) for scheme in guard.schemes(metrics="scraper" in decided_by))
    statuses = set(_OF_EVERY_ROUTE)
    if route.param_convertors:
        statuses.add(404)
    if route.body_field is not None:
        statuses.add(400)
    for status, answer in errors(*statuses).items():
        route.responses.setdefault(status, answer)
