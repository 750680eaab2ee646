from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel.bus import ObserverBus
from taskflow_otel.web.headers import API_HEADERS
from taskflow_otel.web.sse import MAX_STREAMS, EventStreams, frames
from tests.apps.watched_app import HELD, UNSIGNALLED, UVICORN, WAYS
from tests.exporters.story import Story
from tests.procs import ROOT
from tests.servers import free_port, spawn
from tests.waiting import eventually, wait_until
from tests.web.conftest import Served
from tests.web.house import House, make_record


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


async def watch(url: str, *, close: bool = False) -> socket.socket:
    """A watcher that has read the start of its stream, and reads no more."""
    host, port = url.removeprefix("http://").split(":")
    watcher = socket.socket()
    watcher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    watcher.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(watcher, (host, int(port)))
    end = "Connection: close\r\n" if close else ""
    await loop.sock_sendall(watcher, f"GET /tasks/events HTTP/1.1\r\nHost: x\r\n{end}\r\n".encode())
    seen = b""
    async with asyncio.timeout(20):
        while b"begin" not in seen:
            seen += await loop.sock_recv(watcher, 512)
    return watcher


async def test_a_stream_begins_with_a_place_to_resume_from_and_resuming_misses_nothing(engine: House) -> None:
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
        assert (await anext(stream)).startswith(b"retry: ")
        parts = (await anext(stream)).decode().removesuffix("\n\n").split("\n\n")
        assert [json.loads(parse(part)["data"])["task_id"] for part in parts] == [first.task_id, second.task_id]


async def test_an_id_that_is_not_known_any_more_asks_to_read_again(engine: House) -> None:
    async with aclosing(frames(engine.stream, "of-another-process")) as stream:
        assert (await event(stream))["event"] == "reset"


async def test_silence_is_filled_with_comments(engine: House) -> None:
    async with asyncio.timeout(10), aclosing(frames(engine.stream, heartbeat=0.01)) as stream:
        async for part in stream:
            if part == b": heartbeat\n\n":
                break


async def test_closing_the_stream_ends_its_subscription(engine: House) -> None:
    stream = frames(engine.stream)
    await event(stream)
    engine.put(make_record())
    await event(stream)
    assert engine.stream.subscribers == 1
    await stream.aclose()
    assert engine.stream.subscribers == 0


@pytest.mark.parametrize("end", ["the server", "the session"])
async def test_a_stream_ends_with_the_server_and_with_its_session(engine: House, end: str) -> None:
    stopping = asyncio.get_running_loop().create_future()
    if end == "the server":
        stopping.set_result(None)
    async with asyncio.timeout(10):
        until = 1.0 if end == "the session" else None
        parts = [part async for part in frames(engine.stream, until=until, stopping=stopping)]
    assert b"begin" in parts[-1]
    assert engine.stream.subscribers == 0


@pytest.mark.parametrize("lively", [True, False])
async def test_a_stream_ends_once_its_user_may_not_follow_it_any_more(engine: House, lively: bool) -> None:
    answers = [True, True, False]

    async def still() -> bool:
        if lively:
            engine.put(make_record())
        return answers.pop(0)

    async with asyncio.timeout(10):
        parts = [part async for part in frames(engine.stream, still=still, recheck=0.001)]
    assert any(b"begin" in part for part in parts)
    assert answers == []
    assert engine.stream.subscribers == 0


async def test_the_header_of_a_reconnecting_browser_wins_over_the_address_it_began_with(
    engine: House,
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
            assert {name: answer.headers.get(name) for name in API_HEADERS} == API_HEADERS
            async with asyncio.timeout(10):
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        break
            assert json.loads(line.removeprefix("data: "))["task_id"] == last.task_id
        await eventually(lambda: engine.stream.subscribers == 0, "the end of the abandoned subscription")


async def test_one_stream_too_many_is_refused_with_the_reason(
    app_of: Callable[..., FastAPI], serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    async with serving(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_STREAMS):
                stack.callback((await watch(served.url)).close)
            answer = await client.get("/tasks/events")
            assert answer.status_code == 503
            assert "its limit of live streams" in answer.json()["detail"]

        async def admitted() -> bool:
            async with client.stream("GET", "/tasks/events") as answer:
                return answer.status_code == 200

        await eventually(admitted, "a place, once the others have left")


async def test_a_watcher_that_does_not_read_is_cut_off(
    engine: House,
    app_of: Callable[..., FastAPI],
    serving: Callable[..., AbstractAsyncContextManager[Served]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EventStreams, "send_timeout", 0.1)
    async with serving(app_of()) as served:
        with contextlib.closing(await watch(served.url)):
            assert engine.stream.subscribers == 1
            story = Story(ObserverBus([engine.stream]))

            def gone() -> bool:
                for _ in range(100):
                    story.log("x" * 50_000)
                return engine.stream.subscribers == 0

            await eventually(gone, "the end of the watcher")
            await eventually(lambda: not served.server.server_state.connections, "the end of its connection")


def connected(server: int, client: int) -> bool:
    """Whether the server has the connection between these ports; a client that does not read cannot tell."""
    established = "01"
    connections = (line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(
        here.endswith(f":{server:04X}") and there.endswith(f":{client:04X}") and state == established
        for here, there, state in connections
    )


@contextlib.contextmanager
def holding(port: int, held: Path, log: Path) -> Iterator[None]:
    """The server has a request that it answers once the file `held` is gone."""
    held.touch()
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as connection:
        connection.sendall(f"GET /hold?until={held} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: "holding" in log.read_text(), "the start of the request that holds")
        yield
        held.unlink()
        assert b"let go" in connection.recv(65536)


@pytest.mark.parametrize(
    ("way", "close"),
    [*((way, False) for way in (*WAYS, *UNSIGNALLED)), *((way, True) for way in WAYS if WAYS[way] in UVICORN)],
)
def test_watchers_do_not_hold_up_the_stop_under_any_server_and_any_stop(way: str, close: bool, tmp_path: Path) -> None:
    """One watcher reads, and the other one does not."""
    port, log, held = free_port(), tmp_path / "app.log", tmp_path / "held"
    process = spawn(
        [sys.executable, "-m", "tests.apps.watched_app", str(port), way],
        cwd=ROOT,
        log_path=log,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/tasks/health").is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, "the start of the server")
        with (
            contextlib.closing(asyncio.run(watch(url, close=close))) as silent,
            httpx.stream("GET", f"{url}/tasks/events", timeout=20) as live,
        ):
            lines = live.iter_lines()
            next(lines)
            httpx.post(f"{url}/flood").raise_for_status()
            next(line for line in lines if '"success"' in line)
            pair = port, silent.getsockname()[1]
            assert connected(*pair)
            with holding(port, held, log) if WAYS.get(way) in HELD else contextlib.nullcontext():
                if way in UNSIGNALLED:
                    httpx.post(f"{url}/stop").raise_for_status()
                else:
                    process.send_signal(signal.SIGTERM)
                list(lines)
                wait_until(lambda: not connected(*pair), "the end of the connection of the one that does not read")
            process.wait(60)
        said = [line for line in log.read_text().splitlines() if line in ("the lifespan has ended", "stopped in order")]
        assert said == ["the lifespan has ended", "stopped in order"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
