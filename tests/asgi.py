"""Requests driven by hand through an ASGI application, so that a test sees each message when it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from fastapi import FastAPI
from starlette.types import Message

_SLOWNESS = 25
"""Turns of the event loop that each message takes to leave."""


@contextlib.asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[FastAPI]:
    """The application within its lifespan."""
    async with app.router.lifespan_context(app):
        yield app


class Exchange:
    """One HTTP request and what the application answers.

    `log`, when given, gets `"first byte"` and `"last byte"` when they have left, in the order in which things happen.
    """

    def __init__(self, app: FastAPI, path: str, *, method: str = "POST", log: list[str] | None = None) -> None:
        self.app = app
        self.path = path
        self.method = method
        self.log = [] if log is None else log
        self.messages: list[Message] = []
        self.error: BaseException | None = None
        self.gone = asyncio.Event()
        self._asked = False

    async def run(self) -> Exchange:
        """Send the request and return once the application has ended; what it raised is in `error`."""
        path, _, query = self.path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "replace"),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"test")],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        try:
            await self.app(scope, self._receive, self._send)
        except Exception as error:
            self.error = error
        return self

    @property
    def started(self) -> bool:
        """Whether the first byte has left."""
        return bool(self.messages)

    @property
    def status(self) -> int:
        """The status code of the response."""
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """The response headers."""
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        """The response body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        """The response body, decoded; raises what the application raised instead."""
        if self.error is not None:
            raise self.error
        return json.loads(self.body)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        # A slow client: code that does not wait for this send gets far ahead of it.
        for _ in range(_SLOWNESS):
            await asyncio.sleep(0)
        self.messages.append(message)
        if message["type"] == "http.response.start":
            self.log.append("first byte")
        elif not message.get("more_body", False):
            self.log.append("last byte")


async def post(app: FastAPI, path: str, *, log: list[str] | None = None) -> Exchange:
    """POST once and return the finished exchange."""
    return await Exchange(app, path, log=log).run()


async def get(app: FastAPI, path: str) -> Exchange:
    """GET once and return the finished exchange."""
    return await Exchange(app, path, method="GET").run()


async def converse(app: FastAPI, path: str, texts: Iterable[str]) -> list[str]:
    """Open a WebSocket, send the texts, leave, and return the texts that came back."""
    incoming: list[Message] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    answers: list[str] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            answers.append(message["text"])

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "subprotocols": [],
    }
    await app(scope, receive, send)
    return answers
