"""The answer to an address under the path of the administration that no route has."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from taskflow_otel.web.guard import Guard
from taskflow_otel.web.hosts import Hosts
from taskflow_otel.web.refusals import Refusal
from taskflow_otel.web.routing import route_class
from taskflow_otel.wire.problems import NOT_FOUND


class Nowhere:
    """Answers 404 in the shape of the API under `path`, after the login; leaves other addresses to `default`.

    It takes what no route of the application has taken, so it hides no route that the application adds later.
    """

    def __init__(self, path: str, guard: Guard, hosts: Hosts, default: ASGIApp) -> None:
        self._default = default
        router = APIRouter(prefix=path, route_class=route_class(path))

        @router.get("/{rest:path}", dependencies=[Depends(hosts.check), Depends(guard.viewer)])
        async def nothing(request: Request, rest: str) -> None:
            raise Refusal(NOT_FOUND, f"the API has no address {request.url.path!r}; the OpenAPI document lists them")

        [self._route] = router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match, child = self._route.matches(scope) if scope["type"] == "http" else (Match.NONE, {})
        if match is Match.NONE:
            await self._default(scope, receive, send)
            return
        scope.update(child)
        # A method does not matter where there is nothing.
        await self._route.handle({**scope, "method": "GET"}, receive, send)
