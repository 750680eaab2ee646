"""The tasks of a request that fails: they never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import Depends, HTTPException
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from taskflow_otel import ManagedBackgroundTasks, TaskStatus
from taskflow_otel.backends import SqliteBackend
from tests.asgi import post, running
from tests.e2e.shop import Shop, leave_a_witness, next_life_runs_only


class Number(BaseModel):
    number: int


def failing_routes(shop: Shop) -> None:
    app = shop.app

    async def breaks_after_the_route() -> AsyncIterator[None]:
        yield
        raise RuntimeError("the dependency broke")

    def breaks_in_a_thread_after_the_route() -> Iterator[None]:
        yield
        raise RuntimeError("the dependency broke")

    async def fails_to_commit() -> AsyncIterator[None]:
        yield
        raise ConnectionRefusedError("the database is away")

    def fails_to_commit_in_a_thread() -> Iterator[None]:
        yield
        raise RuntimeError("the commit failed")

    def adds(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    def breaks_before_the_route() -> Iterator[None]:
        if shop.ids:
            raise RuntimeError("the dependency broke")
        yield

    @app.post("/http_exception")
    async def http_exception(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise HTTPException(409, "not now")

    @app.post("/sync_http_exception")
    def sync_http_exception(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise HTTPException(409, "not now")

    @app.post("/unhandled")
    async def unhandled(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise RuntimeError("boom")

    @app.post("/handled")
    async def handled(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise LookupError("handled by the application")

    @app.exception_handler(LookupError)
    async def on_lookup_error(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 404)

    @app.post("/response_model", response_model=Number)
    async def response_model(tasks: ManagedBackgroundTasks) -> dict[str, str]:
        shop.add(tasks)
        return {"number": "not a number"}

    @app.post("/dependency_after", dependencies=[Depends(breaks_after_the_route, scope="function")])
    async def dependency_after(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    @app.post("/sync_dependency_after", dependencies=[Depends(breaks_in_a_thread_after_the_route, scope="function")])
    def sync_dependency_after(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    @app.post("/dependency_before", dependencies=[Depends(adds), Depends(breaks_before_the_route)])
    async def dependency_before() -> None:
        """Never entered."""

    @app.post("/commit_fails", dependencies=[Depends(fails_to_commit)])
    async def commit_fails(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    @app.post("/sync_commit_fails", dependencies=[Depends(fails_to_commit_in_a_thread)])
    def sync_commit_fails(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    @app.post("/stream_breaks")
    async def stream_breaks(tasks: ManagedBackgroundTasks) -> StreamingResponse:
        shop.add(tasks)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("broken in the middle")

        return StreamingResponse(chunks())

    @app.post("/stream_loses_its_source")
    async def stream_loses_its_source(tasks: ManagedBackgroundTasks) -> StreamingResponse:
        shop.add(tasks)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise ConnectionResetError("the database went away, not the client")

        return StreamingResponse(chunks())


FAILING = [
    "http_exception",
    "sync_http_exception",
    "unhandled",
    "handled",
    "response_model",
    "dependency_after",
    "sync_dependency_after",
    "dependency_before",
    "commit_fails",
    "sync_commit_fails",
    "stream_breaks",
    "stream_loses_its_source",
]


@pytest.mark.parametrize("route", FAILING)
async def test_the_task_of_a_failed_request_never_runs_not_even_after_a_restart(route: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    failing_routes(shop)
    async with running(shop.mount()):
        answer = await post(shop.app, f"/{route}")
        assert answer.error is not None or answer.status >= 400
        assert await shop.ended() is TaskStatus.CANCELLED
        assert (await shop.manager.get(shop.ids[0])).reason == "request_failed"
        await leave_a_witness(shop)
    assert shop.log == []

    again = await next_life_runs_only(tmp_path / "tasks.db", ["witness"])
    stored = SqliteBackend(tmp_path / "tasks.db")
    await stored.open()
    record = await stored.get(shop.ids[0])
    await stored.close()
    assert record is not None
    assert (record.status, record.reason, record.start_time) == (TaskStatus.CANCELLED, "request_failed", None)
    assert again.manager.store.list() == []
