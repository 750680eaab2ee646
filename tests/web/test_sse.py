from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel.web.sse import frame, frames
from tests.waiting import eventually
from tests.web.conftest import Served
from tests.web.stand_ins import FakeEngine, make_record


def parse(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.strip().splitlines() if not line.startswith(":"))


async def event(stream: AsyncIterator[bytes]) -> dict[str, Any]:
    """The next event of a stream of frames, without the fields that only set it up."""
    async with asyncio.timeout(10):
        async for part in stream:
            fields = parse(part.decode())
            if "event" in fields:
                return {**fields, "data": json.loads(fields["data"])}
    raise AssertionError("the stream ended")


async def test_a_stream_begins_with_a_place_to_resume_from_and_resuming_misses_nothing(engine: FakeEngine) -> None:
    async with aclosing(frames(engine.stream)) as stream:
        begin = await event(stream)
        assert begin["event"] == "begin"
        first = engine.put(make_record())
        seen = await event(stream)
        assert (seen["event"], seen["data"]["task_id"]) == ("task", first.task_id)
    second = engine.put(make_record())
    async with aclosing(frames(engine.stream, seen["id"])) as stream:
        assert (await event(stream))["data"]["task_id"] == second.task_id
    async with aclosing(frames(engine.stream, begin["id"])) as stream:
        assert [(await event(stream))["data"]["task_id"] for _ in range(2)] == [first.task_id, second.task_id]


async def test_an_id_that_is_not_known_any_more_asks_to_read_again(engine: FakeEngine) -> None:
    async with aclosing(frames(engine.stream, "of-another-process")) as stream:
        assert (await event(stream))["event"] == "reset"


async def test_silence_is_filled_with_comments(engine: FakeEngine) -> None:
    async with asyncio.timeout(10), aclosing(frames(engine.stream, heartbeat=0.01)) as stream:
        async for part in stream:
            if part == b": heartbeat\n\n":
                break


async def test_closing_the_stream_ends_its_subscription(engine: FakeEngine) -> None:
    stream = frames(engine.stream)
    await event(stream)
    engine.put(make_record())
    await event(stream)
    assert engine.stream.subscribers == 1
    await stream.aclose()
    assert engine.stream.subscribers == 0


@pytest.mark.parametrize("end", [{"stopping": lambda: True}, {"until": 1.0}])
async def test_a_stream_ends_with_the_server_and_with_its_session(engine: FakeEngine, end: dict[str, Any]) -> None:
    async with asyncio.timeout(10):
        parts = [part async for part in frames(engine.stream, **end)]
    assert b"begin" in parts[-1]
    assert engine.stream.subscribers == 0


def test_data_cannot_forge_a_field_of_the_stream() -> None:
    sent = frame("e-1", "task", {"error": "x\n\nevent: forged\r\ndata: {}\u2028"})
    assert sent.count(b"\n") == 4
    assert json.loads(parse(sent.decode())["data"])["error"] == "x\n\nevent: forged\r\ndata: {}\u2028"


async def test_the_header_of_a_reconnecting_browser_wins_over_the_address_it_began_with(
    engine: FakeEngine,
    app_of: Callable[..., FastAPI],
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    old = engine.stream.cursor
    engine.put(make_record())
    middle = engine.stream.cursor
    last = engine.put(make_record())
    async with serving(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        request = client.stream("GET", "/tasks/events", params={"after": old}, headers={"Last-Event-ID": middle})
        async with request as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            assert answer.headers["Cache-Control"] == "no-store"
            async with asyncio.timeout(10):
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        break
            assert json.loads(line.removeprefix("data: "))["task_id"] == last.task_id
        await eventually(lambda: engine.stream.subscribers == 0, "the end of the abandoned subscription")


async def test_an_open_page_does_not_hold_up_the_end_of_the_server(
    engine: FakeEngine,
    app_of: Callable[..., FastAPI],
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with (
        serving(app_of()) as served,
        httpx.AsyncClient(base_url=served.url) as client,
        client.stream("GET", "/tasks/events") as answer,
    ):
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("retry:")
        served.server.should_exit = True
        await asyncio.wait_for(asyncio.shield(served.ended), 20)
