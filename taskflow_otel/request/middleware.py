"""The ASGI middleware: commit before the response's first byte, let the tasks start after its last byte.

`TaskMiddleware` is the innermost one, directly around FastAPI's own exception handling. When the inner application has
returned, the request's dependencies have finished. If tasks could not be stored, it answers 503 or 422, and all other
middlewares see that. FastAPI's exit stacks, and exceptions that leave the application, show whether the request failed.
`DeliveryMiddleware` is the outermost one: only there it is known when the last byte has left, because middlewares
between the two may delay a response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_otel.compat.starlette import add_middlewares, settings_of
from taskflow_otel.engine.door import Door
from taskflow_otel.errors import BackendError
from taskflow_otel.request.current import current_request, new_outbox
from taskflow_otel.request.injection import inject
from taskflow_otel.request.outbox import Outbox
from taskflow_otel.request.refusal import refusal_of

_DELIVERY = "taskflow_otel.delivery"


def add_task_middleware(app: FastAPI, door: Door, installed: Callable[[], bool]) -> None:
    """Add the middlewares to an application that has not started; `installed` returns whether it injects natively."""
    add_middlewares(
        app,
        innermost=Middleware(TaskMiddleware, door=door, home=app, installed=installed),
        outermost=Middleware(DeliveryMiddleware),
    )


def another_is_installed(app: FastAPI, door: Door) -> bool:
    """Whether the routes of this application get the tasks of another manager."""
    return any(one["door"] is not door and one["installed"]() for one in settings_of(app, TaskMiddleware))


class Delivery:
    """The progress of the response of one request, and the tasks that wait for its end."""

    __slots__ = ("_outboxes", "_over", "begun")

    def __init__(self) -> None:
        self.begun: bool = False
        self._over = False
        self._outboxes: list[Outbox] = []

    def add(self, outbox: Outbox) -> None:
        """Let the tasks of a successful request start: now, or when the last byte has left."""
        if self._over:
            outbox.close()
        else:
            self._outboxes.append(outbox)

    def end(self, *, kept: bool) -> None:
        """The response is complete."""
        self._over = True
        outboxes, self._outboxes = self._outboxes, []
        for outbox in outboxes:
            if kept:
                outbox.close()
            else:
                outbox.fail()


class DeliveryMiddleware:
    """Outermost: sees the first and the last byte leave."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _DELIVERY in scope:
            await self._app(scope, receive, send)
            return
        delivery = scope[_DELIVERY] = Delivery()

        async def watched(message: Message) -> None:
            # Before the send: if the client is gone, the tasks start nevertheless.
            delivery.begun = True
            await send(message)
            if _is_last(message):
                delivery.end(kept=True)

        try:
            await self._app(scope, receive, watched)
        finally:
            delivery.end(kept=delivery.begun)


class TaskMiddleware:
    """Innermost: gives each request its outbox."""

    def __init__(self, app: ASGIApp, door: Door, home: FastAPI, installed: Callable[[], bool]) -> None:
        self._app = app
        self._door = door
        self._home = home
        self._installed = installed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        outbox = new_outbox(self._door, scope)
        token = inject(outbox, scope, self._home, native=self._installed())
        try:
            if scope["type"] == "websocket":
                await self._app(scope, receive, send)
            else:
                await _Exchange(outbox, scope, send).run(self._app, receive)
        finally:
            current_request.reset(token)


class _Exchange:
    """One HTTP request and its response."""

    __slots__ = ("_delivery", "_outbox", "_replaced", "_scope", "_send", "_started")

    def __init__(self, outbox: Outbox, scope: Scope, send: Send) -> None:
        self._outbox = outbox
        self._delivery: Delivery = scope[_DELIVERY]
        self._scope = scope
        self._send = send
        self._started = False
        self._replaced = False

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            await app(self._scope, receive, self._pass_on)
        except asyncio.CancelledError:
            self._end(kept=self._delivery.begun)
            raise
        except BaseException as exc:
            if self._outbox.is_failure(exc):
                self._outbox.fail()
            else:
                # Acknowledged tasks start nevertheless.
                await self._conclude()
            if not self._replaced:
                raise
        else:
            await self._conclude()

    async def _conclude(self) -> None:
        if self._started and self._outbox.uncommitted:
            await self._outbox.deliver()
        self._end(kept=self._started)

    def _end(self, *, kept: bool) -> None:
        if kept:
            self._delivery.add(self._outbox)
        else:
            self._outbox.fail()

    async def _pass_on(self, message: Message) -> None:
        if self._replaced:
            # As ASGI requires for a disconnected client: no one receives what the route still sends.
            raise OSError("the response was replaced, because background tasks could not be stored")
        starts = message["type"] == "http.response.start"
        if self._outbox.uncommitted:
            if not starts:
                # The route added tasks while the response was streaming.
                await self._outbox.deliver()
            elif not await self._before_first_byte():
                return
        self._started = self._started or starts
        try:
            await self._send(message)
        except OSError as exc:
            self._outbox.client_gone = exc
            raise

    async def _before_first_byte(self) -> bool:
        """Commit the request's tasks; return `False` if that failed and a refusal was sent in place of the response."""
        try:
            await self._outbox.deliver()
        except BackendError as error:
            self._replaced = True
            status, detail, headers = refusal_of(error)
            response = JSONResponse({"detail": detail}, status, headers)
            await response(self._scope, _no_receive, self._send)
        return not self._replaced


def _is_last(message: Message) -> bool:
    kind = message["type"]
    return kind == "http.response.pathsend" or (kind == "http.response.body" and not message.get("more_body", False))


async def _no_receive() -> Message:
    return {"type": "http.disconnect"}
