"""The live stream over HTTP: Server-Sent Events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Send

from taskflow_otel.model.plain import plain_value
from taskflow_otel.web.ports import EventSource

RECONNECT_MS = 2_000
HEARTBEAT = 15.0
"""Seconds of silence after which a comment keeps proxies from closing the connection."""
_TICK = 1.0


class EventStreamResponse(StreamingResponse):
    """A stream whose source is closed as soon as the client is gone, not when it is garbage-collected."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            await close(self.body_iterator)


def event_stream(
    source: EventSource, last_event_id: str | None, *, until: float | None, heartbeat: float = HEARTBEAT
) -> EventStreamResponse:
    """Answer with the deltas since `last_event_id`, until the session ends (`until`, seconds since the epoch)."""
    return EventStreamResponse(
        frames(source, last_event_id, until=until, heartbeat=heartbeat, stopping=server_is_stopping),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"},
    )


async def frames(
    source: EventSource,
    last_event_id: str | None = None,
    *,
    heartbeat: float = HEARTBEAT,
    until: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[bytes, None]:
    """The bytes of the stream: deltas as they come, a comment after `heartbeat` seconds of silence.

    A new stream begins with an event `begin`, whose id can be resumed from: what is read after it misses nothing.
    """
    loop = asyncio.get_running_loop()
    start = last_event_id or source.cursor
    deltas = source.subscribe(start)
    yield b"retry: %d\n\n" % RECONNECT_MS
    if last_event_id is None:
        yield frame(start, "begin", {})
    beat_at = loop.time() + heartbeat
    coming: asyncio.Future[tuple[str, str, dict[str, Any]]] | None = None
    try:
        while not stopping() and (until is None or time.time() < until):
            coming = coming or asyncio.ensure_future(_next(deltas))
            await asyncio.wait({coming}, timeout=min(_TICK, heartbeat))
            if coming.done():
                try:
                    event_id, event, data = coming.result()
                except StopAsyncIteration:
                    return
                finally:
                    coming = None
                yield frame(event_id, event, data)
                beat_at = loop.time() + heartbeat
            elif loop.time() >= beat_at:
                yield b": heartbeat\n\n"
                beat_at = loop.time() + heartbeat
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await close(deltas)


async def close(iterator: object) -> None:
    """Close an asynchronous generator; other iterators have nothing to close."""
    if isinstance(iterator, AsyncGenerator):
        await iterator.aclose()


async def _next(deltas: AsyncIterator[tuple[str, str, dict[str, Any]]]) -> tuple[str, str, dict[str, Any]]:
    return await anext(deltas)


def frame(event_id: str, event: str, data: dict[str, Any]) -> bytes:
    """One event. JSON escapes every line break, so that data cannot forge a field of the stream."""
    try:
        body = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        # Only a value that no task can say: the page needs valid JSON all the same.
        body = json.dumps(plain_value(data), separators=(",", ":"))
    return f"id: {event_id}\nevent: {event}\ndata: {body}\n\n".encode()


def server_is_stopping() -> bool:
    """Whether uvicorn is waiting for its connections to end.

    uvicorn runs the lifespan's end only after the last connection has closed, and tells the application nothing
    before that; an open page would hold up every deploy. Its signal handler is a method of the server, which knows.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))
