"""The answer to an address under the path of the administration that no route has."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
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
        self._path = path
        router = APIRouter(prefix=path, route_class=route_class(path))

        @router.get("/", dependencies=[Depends(hosts.check), Depends(guard.viewer)])
        async def nothing(request: Request) -> None:
            written = request.url.path
            what = "leave out the slash at its end" if written.endswith("/") else "the OpenAPI document lists them"
            raise Refusal(NOT_FOUND, f"the API has no address {written!a}; {what}")

        [self._route] = router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not by the pattern of a route: names may contain line breaks, which a pattern does not match.
        address = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", "")))
        if scope["type"] != "http" or not address.startswith(f"{self._path}/"):
            await self._default(scope, receive, send)
            return
        # A method does not matter where there is nothing.
        await self._route.handle({**scope, "method": "GET", "path_params": {}}, receive, send)
