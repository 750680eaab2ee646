"""The connection of the client: logins, time limits, and a live stream that survives a lost connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel.client import AsyncClient, errors
from tests.client.conftest import ClientOf
from tests.web.conftest import Served
from tests.web.house import House, make_record
from tests.web.users import USER


async def test_a_client_logs_in_with_a_password_a_token_or_a_way_of_its_own(client_of: ClientOf) -> None:
    assert (await client_of(auth=USER, login=USER).get_session()).actor == USER[0]
    assert "taskflow" in await client_of(auth=USER, metrics_token="scrape", token="scrape").get_metrics()

    class Mine(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            yield next(httpx.BasicAuth(*USER).auth_flow(request))

    mine: Any = Mine()
    assert (await client_of(auth=USER, login=mine).get_session()).actor == USER[0]


async def test_the_live_stream_is_read_and_continued_after_an_event_that_is_known(
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with serving(app_of()) as served, AsyncClient(f"{served.url}/tasks") as client:
        async with aclosing(client.get_events()) as events:
            begin = await anext(events)
            assert begin.kind == "begin"
            record = engine.put(make_record())
            assert (await anext(events)).data["task_id"] == record.task_id
        async with aclosing(client.get_events(after=begin.id)) as events:
            assert (await anext(events)).data["task_id"] == record.task_id


class Cut(httpx.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data
        raise httpx.ReadError("cut")


async def test_a_stream_that_breaks_off_continues_after_its_last_whole_event() -> None:
    asked: list[str | None] = []
    as_problem = {"Content-Type": "application/problem+json"}
    full = {"type": "/tasks/problems#too-many-streams", "title": "full", "status": 503, "detail": "full"}
    answers = [
        httpx.Response(200, stream=Cut(b"retry: 0\n\nid: 1\nevent: task\ndata: {}\n\nid: 2\ndata: {")),
        httpx.Response(503, json=full, headers={**as_problem, "Retry-After": "0"}),
        httpx.Response(200, content=b"id: 2\nevent: task\ndata: {}\n\n"),
        httpx.Response(
            401, json={**full, "type": "#login-required"}, headers={"Content-Type": "application/problem+json"}
        ),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        return answers[len(asked) - 1]

    client = AsyncClient("http://test/tasks", http=httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    events = client.get_events()
    found = [(await anext(events)).id, (await anext(events)).id]
    with pytest.raises(errors.LoginRequiredError):
        await anext(events)
    assert found == ["1", "2"]
    assert asked == [None, "1", "1", "2"]


async def test_a_stream_that_never_began_says_why_at_once() -> None:
    client = AsyncClient("http://127.0.0.1:1/tasks", timeout=5)
    with pytest.raises(errors.UnreachableError, match="cannot be reached"):
        await anext(client.get_events())
    await client.aclose()


async def test_a_request_without_an_answer_in_time_is_an_error_of_the_connection() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, AsyncClient(f"http://127.0.0.1:{port}/tasks", timeout=0.05) as client:
        with pytest.raises(errors.UnreachableError, match="did not answer in time"):
            await client.list_queues()
        await gone.wait()
