"""What `compat.starlette` and the live stream rely on. Seen in Starlette 1.10.0."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_otel.compat.starlette import (
    Lifespan,
    add_middlewares,
    has_started,
    is_slash_tried,
    settings_of,
    wrap_default,
    wrap_lifespan,
)
from tests.compat.shapes import Shape

SHAPE = Shape("starlette", "1.10.0")
CLASSES = pytest.mark.parametrize("make", [Starlette, FastAPI])


async def get(app: Any, path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get(path)


class Noting:
    """A middleware that notes when a request comes by."""

    def __init__(self, app: ASGIApp, name: str, seen: list[str]) -> None:
        self._app = app
        self._name = name
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._seen.append(self._name)
        await self._app(scope, receive, send)


@CLASSES
async def test_the_outermost_middleware_stays_outermost_whatever_is_added_after_it(make: type[Starlette]) -> None:
    app = make()
    seen: list[str] = []
    app.add_middleware(Noting, name="earlier", seen=seen)
    add_middlewares(
        app,
        innermost=Middleware(Noting, name="innermost", seen=seen),
        outermost=Middleware(Noting, name="outermost", seen=seen),
    )
    app.add_middleware(Noting, name="later", seen=seen)
    await get(app)
    SHAPE.holds(
        seen == ["outermost", "later", "earlier", "innermost"],
        "Starlette.add_middleware, user_middleware and build_middleware_stack in starlette/applications.py (overridden "
        "in fastapi/applications.py) order the middlewares otherwise, or build them without asking the application.",
    )


@CLASSES
def test_a_middleware_keeps_its_class_and_its_settings(make: type[Starlette]) -> None:
    app = make()
    app.add_middleware(Noting, name="one", seen=[])
    SHAPE.holds(
        settings_of(app, Noting) == [{"name": "one", "seen": []}] and settings_of(app, Starlette) == [],
        "Middleware in starlette/middleware/__init__.py no longer keeps what it was made with as cls and kwargs.",
    )


@CLASSES
async def test_an_application_that_has_served_a_request_has_started(make: type[Starlette]) -> None:
    app = make()
    before = has_started(app)
    await get(app)
    SHAPE.holds(
        (before, has_started(app)) == (False, True),
        "middleware_stack in starlette/applications.py is no longer None until the first request.",
    )


@CLASSES
async def test_a_lifespan_that_is_wrapped_after_the_application_was_made_runs_around_its_own(
    make: type[Starlette],
) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, str]]:
        events.append("own start")
        yield {"of": "the application"}
        events.append("own end")

    def around(inner: Lifespan) -> Lifespan:
        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            events.append("start")
            async with inner(app) as state:
                yield state
            events.append("end")

        return lifespan

    app = make(lifespan=own)
    wrap_lifespan(app, around)
    incoming = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))
    sent: list[str] = []

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    state: dict[str, str] = {}
    await app({"type": "lifespan", "app": app, "state": state}, receive, send)
    SHAPE.holds(
        events == ["start", "own start", "own end", "end"]
        and sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        and state == {"of": "the application"},
        "Router.lifespan in starlette/routing.py no longer enters lifespan_context of the application's router.",
    )


async def test_a_streaming_response_sends_all_of_its_bytes_through_one_method() -> None:
    kinds: list[str] = []

    class Watched(StreamingResponse):
        async def stream_response(self, send: Send) -> None:
            async def watched(message: Message) -> None:
                kinds.append(message["type"])
                await send(message)

            self.body_iterator = chunks()
            await super().stream_response(watched)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"

    async def route(request: Any) -> Watched:
        return Watched(())

    answer = await get(Starlette(routes=[Route("/", route)]))
    SHAPE.holds(
        answer.content == b"one" and kinds == ["http.response.start", "http.response.body", "http.response.body"],
        "StreamingResponse in starlette/responses.py sends otherwise than through stream_response(send), or not what "
        "body_iterator yields; EventStreamResponse in web/sse.py bounds each send there.",
    )


@CLASSES
async def test_the_application_behind_all_routes_is_asked_last(make: type[Starlette]) -> None:
    app, asked = make(), list[str]()

    def wrap(default: ASGIApp) -> ASGIApp:
        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            asked.append(scope["path"])
            await default(scope, receive, send)

        return noted

    wrap_default(app, wrap)
    app.routes.append(Route("/known", lambda request: PlainTextResponse("known")))
    statuses = [(await get(app, path)).status_code for path in ("/known", "/unknown")]
    SHAPE.holds(
        statuses == [200, 404] and asked == ["/unknown"],
        "Router.app in starlette/routing.py no longer calls `self.default` for what no route has taken.",
    )


@CLASSES
async def test_a_router_asks_its_routes_about_a_slash_only_after_the_address_that_the_client_wrote(
    make: type[Starlette],
) -> None:
    tried: list[tuple[str, bool]] = []

    class Noticing(Route):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            tried.append((scope["path"], is_slash_tried(scope)))
            return (Match.NONE, {}) if tried[-1][1] else super().matches(scope)

    async def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse("here")

    inner, outer = make(), make()
    inner.router.routes.append(Noticing("/here", answer))
    outer.router.routes.append(Noticing("/here", answer))
    outer.mount("/inner", inner)
    assert (await get(outer, "/here")).text == (await get(outer, "/inner/here")).text == "here"
    assert not any(slash for _, slash in tried)
    tried.clear()
    assert (await get(outer, "/here/")).status_code == 404
    assert tried == [("/here/", False), ("/here", True)]
    tried.clear()
    assert (await get(outer, "/inner/here/")).status_code == 404
    assert [slash for _, slash in tried] == [False, False, True]
