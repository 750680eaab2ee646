"""A FastAPI route that adds one task, called through ASGI without a server: ours, and FastAPI's own.

`application` is also what a server of the HTTP rows serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import BackgroundTasks, FastAPI
from starlette.types import Message, Scope

from benchmarks.workloads import Run
from benchmarks.workloads.producers import produce

_CLIENTS = 32

Wait = Callable[[int], Awaitable[None]]
"""Returns once this many further tasks have finished."""


def application(case: str, directory: Path) -> tuple[FastAPI, Wait]:
    """The application of a case. Its route is `POST /`; `GET /plain` adds nothing.

    `native`, `memory` and `sqlite` are FastAPI and this library; `flow-memory` and `flow-sqlite` are fastapi-taskflow.
    """
    app = FastAPI(openapi_url=None)
    finished = seen = 0

    async def nothing() -> None:
        nonlocal finished
        finished += 1

    manager, task = None, nothing
    persist = case.endswith("sqlite")
    database = directory / "tasks.db" if persist else None
    if case.startswith("flow"):
        from fastapi_taskflow import TaskAdmin
        from fastapi_taskflow import TaskManager as FlowManager

        flow = FlowManager(snapshot_db=None if database is None else str(database))
        TaskAdmin(app, flow, auto_install=True)
        task = flow.task(persist=persist)(nothing)
    elif case != "native":
        from taskflow_otel import TaskManager

        manager = TaskManager(snapshot_db=database)
        manager.install(app)
        task = manager.task(persist=persist)(nothing)

    @app.post("/")
    async def add(tasks: BackgroundTasks) -> dict[str, bool]:
        tasks.add_task(task)
        return {"ok": True}

    @app.get("/plain")
    async def plain() -> dict[str, bool]:
        return {"ok": True}

    async def wait(number: int) -> None:
        nonlocal seen
        seen += number
        while finished < seen or (manager is not None and manager.store.list()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    return app, wait


@asynccontextmanager
async def route_memory(directory: Path) -> AsyncIterator[Run]:
    """One task in memory for each request."""
    async with _route("memory", directory) as run:
        yield run


@asynccontextmanager
async def route_sqlite(directory: Path) -> AsyncIterator[Run]:
    """One task persisted in SQLite for each request."""
    async with _route("sqlite", directory) as run:
        yield run


@asynccontextmanager
async def route_native(directory: Path) -> AsyncIterator[Run]:
    """One native background task for each request."""
    async with _route("native", directory) as run:
        yield run


@asynccontextmanager
async def route_plain(directory: Path) -> AsyncIterator[Run]:
    """A request that adds no task, to an application with a manager."""
    async with _route("memory", directory, adds=False) as run:
        yield run


@asynccontextmanager
async def route_plain_native(directory: Path) -> AsyncIterator[Run]:
    """The same request without a manager."""
    async with _route("native", directory, adds=False) as run:
        yield run


@asynccontextmanager
async def _route(case: str, directory: Path, *, adds: bool = True) -> AsyncIterator[Run]:
    app, wait = application(case, directory)
    method, path = ("POST", "/") if adds else ("GET", "/plain")

    async def request() -> None:
        status = 0
        asked = False
        gone = asyncio.Event()

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await gone.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"benchmark")],
            "client": ("127.0.0.1", 1),
            "server": ("benchmark", 80),
        }
        await app(scope, receive, send)
        gone.set()
        if status != 200:
            raise RuntimeError(f"the route answered {status}")

    async def run(number: int) -> None:
        await produce(number, request, _CLIENTS)
        if adds:
            await wait(number)

    async with app.router.lifespan_context(app):
        yield run
