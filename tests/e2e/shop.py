"""The application that the tests of requests share: what happens in it is written to a log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.errors import BackendUnavailableError
from tests.asgi import running
from tests.waiting import eventually

WAIT = 60.0


class Shop:
    """An application whose routes add tasks and then do something; what happens is written to `log`."""

    def __init__(self, database: Path | SqliteBackend, **options: Any) -> None:
        self.log: list[str] = []
        self.ids: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        backend = database if isinstance(database, SqliteBackend) else SqliteBackend(database)
        self.manager = TaskManager(snapshot_backend=backend, **options)
        self.app = FastAPI()
        self.declare()

    def mount(self) -> FastAPI:
        TaskAdmin(self.app, self.manager, auto_install=True)
        return self.app

    def declare(self) -> None:
        manager, log = self.manager, self.log

        @manager.task(persist=True)
        async def kept(what: str = "task") -> None:
            await self.gate.wait()
            log.append(what)

        @manager.task()
        async def passing(what: str = "task") -> None:
            await self.gate.wait()
            log.append(what)

        @manager.task()
        def threaded(what: str = "task") -> None:
            log.append(what)

        self.kept, self.passing, self.threaded = kept, passing, threaded

    def add(self, tasks: ManagedBackgroundTasks, what: str = "task") -> str:
        task_id = tasks.add_task(self.kept, what)
        self.ids.append(task_id)
        return task_id

    async def status(self, task_id: str | None = None) -> TaskStatus:
        return (await self.manager.get(task_id or self.ids[0])).status

    async def ended(self, task_id: str | None = None) -> TaskStatus:
        return (await self.manager.wait(task_id or self.ids[0], WAIT)).status


async def next_life_runs_only(database: Path, expected: Sequence[str]) -> Shop:
    """Start the application again on the same file, and see what it takes over and runs."""
    shop = Shop(database)
    async with running(shop.mount()):
        # The witness was held back by a pause, which outlives a restart.
        await shop.manager.resume_queue("default")
        await eventually(lambda: len(shop.log) >= len(expected), "the takeover", timeout=WAIT)
        assert shop.log == list(expected)
    assert shop.log == list(expected)
    return shop


async def leave_a_witness(shop: Shop) -> None:
    """Leave a task behind for the next life: once that runs, all that was to run was taken over."""
    await shop.manager.pause_queue("default")

    async def enqueued() -> bool:
        # A backend that was in trouble a moment ago is tried again with backoff.
        try:
            await shop.manager.enqueue(shop.kept, "witness")
        except BackendUnavailableError:
            return False
        return True

    await eventually(enqueued, "the commit of the witness")


class PassThrough(BaseHTTPMiddleware):
    """What most applications have in their stack: it re-streams every response."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)


class HoldBack:
    """Sends nothing before the application has ended, as a middleware that computes an entity tag does."""

    def __init__(self, app: ASGIApp, *, fails: bool = False) -> None:
        self._app = app
        self._fails = fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await self._app(scope, receive, hold)
        if self._fails:
            raise RuntimeError("the middleware broke")
        for message in held:
            await send(message)
