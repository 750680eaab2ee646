"""The ASGI middleware: commit before the response's first byte, let the tasks start after its last byte.

`TaskMiddleware` is the innermost one, directly around FastAPI's own exception handling. When the inner application has
returned, the request's dependencies have finished. If tasks could not be stored, it answers 503 or 422, and all other
middlewares see that. FastAPI's exit stacks, and exceptions that leave the application, show whether the request failed.
`DeliveryMiddleware` is the outermost one: only there it is known when the last byte has left, because middlewares
between the two may delay a response.

Most requests add no task, and have no outbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_otel.compat.starlette import add_middlewares, settings_of
from taskflow_otel.engine.door import Door
from taskflow_otel.errors import BackendError
from taskflow_otel.request.current import RequestTasks, current_request, requests_of
from taskflow_otel.request.outbox import Outbox, is_failure
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
    """Outermost: sees the first and the last byte leave.

    It is left out directly around a `TaskMiddleware`: then nothing between the two can delay a response.
    """

    def __new__(cls, app: ASGIApp) -> DeliveryMiddleware:
        """What the application's stack gets around `app`."""
        return app if isinstance(app, TaskMiddleware) else super().__new__(cls)  # type: ignore[return-value]

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _DELIVERY in scope:
            await self._app(scope, receive, send)
            return
        delivery = scope[_DELIVERY] = Delivery()

        def watched(message: Message) -> Awaitable[None]:
            # Before the send: if the client is gone, the tasks start nevertheless.
            delivery.begun = True
            return send_last(message) if _is_last(message) else send(message)

        async def send_last(message: Message) -> None:
            await send(message)
            delivery.end(kept=True)

        try:
            await self._app(scope, receive, watched)
        finally:
            delivery.end(kept=delivery.begun)


class TaskMiddleware:
    """Innermost: gives each request its outbox, if it adds tasks."""

    def __init__(self, app: ASGIApp, door: Door, home: FastAPI, installed: Callable[[], bool]) -> None:
        self._app = app
        self._door = door
        self._home = home
        self._installed = installed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            requests = requests_of(scope)
            exchange = requests[id(self._door)] = _Exchange(
                self._door, scope, requests, self._home, self._installed, send=send, delivery=scope.get(_DELIVERY)
            )
            token = current_request.set(exchange)
            try:
                await self._app(scope, receive, exchange.pass_on)
            except BaseException as exc:
                if not await exchange.fail(exc):
                    raise
            else:
                exchange.kept = exchange.started
                if exchange.outbox is not None:
                    if exchange.started and exchange.outbox.uncommitted:
                        await exchange.outbox.deliver()
                    exchange.end(exchange.outbox)
            finally:
                exchange.forget()
                current_request.reset(token)
        elif kind == "websocket":
            requests = requests_of(scope)
            tasks = requests[id(self._door)] = RequestTasks(self._door, scope, requests, self._home, self._installed)
            token = current_request.set(tasks)
            try:
                await self._app(scope, receive, send)
            finally:
                tasks.forget()
                current_request.reset(token)
        else:
            await self._app(scope, receive, send)


class _Exchange(RequestTasks, eq=False, kw_only=True):
    """One HTTP request and its response."""

    send: Send
    delivery: Delivery | None
    replaced: bool = False
    """The response was replaced by a refusal."""
    started: bool = False
    """The route has begun its response."""
    begun: bool = False
    """A message of the response has left."""

    async def pass_on(self, message: Message) -> None:
        """Send a message of the response, the first one once the request's tasks are committed."""
        starts = message["type"] == "http.response.start"
        outbox = self.outbox
        if outbox is not None:
            if self.replaced:
                # As ASGI requires for a disconnected client: no one receives what the route still sends.
                raise OSError("the response was replaced, because background tasks could not be stored")
            if outbox.uncommitted and not outbox.publish():
                if not starts:
                    # The route added tasks while the response was streaming.
                    await outbox.deliver()
                elif not await self._before_first_byte(outbox):
                    return
        if starts:
            self.started = True
        self.begun = True
        try:
            await self.send(message)
        except OSError as exc:
            self.client_gone = exc
            if self.outbox is not None:
                self.outbox.client_gone = exc
            raise

    async def _before_first_byte(self, outbox: Outbox) -> bool:
        """Commit the request's tasks; return `False` if that failed and a refusal was sent in place of the response."""
        try:
            await outbox.deliver()
        except BackendError as error:
            self.replaced = self.begun = True
            status, detail, headers = refusal_of(error)
            response = JSONResponse({"detail": detail}, status, headers)
            await response(self.scope, _no_receive, self.send)
        return not self.replaced

    async def fail(self, exc: BaseException) -> bool:
        """An exception has left the application; return whether it was answered already."""
        outbox = self.outbox
        if isinstance(exc, asyncio.CancelledError):
            delivery = self.delivery
            self.kept = self.begun if delivery is None else delivery.begun
        elif is_failure(exc, self.client_gone) if outbox is None else outbox.is_failure(exc):
            self.kept = False
        else:
            # Acknowledged tasks start nevertheless.
            self.kept = self.started
            if self.started and outbox is not None and outbox.uncommitted:
                await outbox.deliver()
        if outbox is not None:
            self.end(outbox)
        return self.replaced and not isinstance(exc, asyncio.CancelledError)

    def end(self, outbox: Outbox) -> None:
        """The request is over: its tasks may start, or never run."""
        if not self.kept:
            outbox.fail()
        elif self.delivery is None:
            outbox.close()
        else:
            self.delivery.add(outbox)


def _is_last(message: Message) -> bool:
    kind = message["type"]
    return kind == "http.response.pathsend" or (kind == "http.response.body" and not message.get("more_body", False))


async def _no_receive() -> Message:
    return {"type": "http.disconnect"}
