"""The live stream over HTTP: Server-Sent Events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.responses import AsyncContentStream
from starlette.types import Message, Receive, Scope, Send

from taskflow_otel.exporters.stream import frame
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.ports import EventSource
from taskflow_otel.web.problems import problem_answer
from taskflow_otel.web.servers import ServerWatch
from taskflow_otel.wire.problems import TOO_MANY_STREAMS

RECONNECT_MS = 2_000
HEARTBEAT = 15.0
"""Seconds without a change after which a comment is sent, so that proxies do not close the connection."""
MAX_STREAMS = 256
"""The most streams of one process at once."""
SEND_TIMEOUT = 20.0
"""Seconds in which a client must read; then its connection is closed."""
_LAST_SEND_TIMEOUT = 1.0
"""The same once the server is stopping."""
_LOOK = 0.25
"""Seconds between two looks at whether the server is stopping."""
RECHECK = 15.0
"""Seconds between two looks at whether the user may still follow the stream."""

Still = Callable[[], Awaitable[bool]]


class EventStreams:
    """The open streams of one application: limited in number and in the time of each send; they end with the server.

    `limit`: streams at once; a further one gets 503. `send_timeout` (seconds): a client that does not read for this
    long is disconnected. `heartbeat`: seconds without a change before a comment is sent. `recheck`: seconds
    until the user is looked up again.
    """

    def __init__(
        self,
        source: EventSource,
        *,
        limit: int = MAX_STREAMS,
        send_timeout: float = SEND_TIMEOUT,
        heartbeat: float = HEARTBEAT,
        recheck: float = RECHECK,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._source = source
        self._limit = limit
        self._send_timeout = send_timeout
        self._heartbeat = heartbeat
        self._recheck = recheck
        self._open: set[EventStreamResponse] = set()
        self._server: ServerWatch | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Future[None] | None = None

    def open(
        self, last_event_id: str | None, *, until: float | None = None, still: Still | None = None
    ) -> EventStreamResponse:
        """Answer with the changes since `last_event_id`.

        The stream ends with the session (`until`, seconds since the epoch), or soon after `still` returns false.
        """
        return EventStreamResponse(self, last_event_id, until, still)

    def frames(
        self, last_event_id: str | None, until: float | None, still: Still | None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of one stream, until the server stops."""
        return frames(
            self._source,
            last_event_id,
            heartbeat=self._heartbeat,
            until=until,
            still=still,
            recheck=self._recheck,
            stopping=self._stopping,
            clock=self._clock,
        )

    def enter(self, response: EventStreamResponse) -> bool:
        """Count a new stream; return `False` if there are too many."""
        if len(self._open) >= self._limit:
            return False
        if not self._open:
            loop = asyncio.get_running_loop()
            self._server = ServerWatch()
            self._stopping = loop.create_future()
            self._looking = loop.call_later(_LOOK, self._look)
        self._open.add(response)
        return True

    def leave(self, response: EventStreamResponse, scope: Scope) -> None:
        """The stream has ended. A client that does not read must not delay the end of the server."""
        self._open.discard(response)
        if self.stopping and (cut := self._cutter_of(scope)) is not None:
            asyncio.get_running_loop().call_later(_LAST_SEND_TIMEOUT, cut)
        if not self._open and self._server is not None and self._looking is not None:
            self._looking.cancel()
            self._server.close()
            self._server = None

    @property
    def stopping(self) -> bool:
        """Whether the server has begun to stop."""
        return self._stopping is not None and self._stopping.done()

    @property
    def send_timeout(self) -> float:
        """The time limit in seconds for a send that begins now."""
        return _LAST_SEND_TIMEOUT if self.stopping else self._send_timeout

    async def cut_off(self, scope: Scope) -> None:
        """Close the connection of a client that does not read; drop its unsent data."""
        if (cut := self._cutter_of(scope)) is not None:
            cut()
            # The server sees the close in the next turn of the loop.
            await asyncio.sleep(0)

    def _cutter_of(self, scope: Scope) -> Callable[[], object] | None:
        return None if self._server is None else self._server.cutter_of(scope)

    def _look(self) -> None:
        if self._server is None or self._stopping is None:
            return
        loop = asyncio.get_running_loop()
        if not self._server.stopping:
            self._looking = loop.call_later(_LOOK, self._look)
            return
        self._stopping.set_result(None)
        for response in self._open:
            response.hurry(loop.time() + _LAST_SEND_TIMEOUT)


class EventStreamResponse(StreamingResponse):
    """One stream. Its source is closed as soon as the client is gone, not at the next garbage collection."""

    media_type = "text/event-stream"

    def __init__(
        self, streams: EventStreams, last_event_id: str | None, until: float | None, still: Still | None
    ) -> None:
        super().__init__(
            (),
            headers={"X-Accel-Buffering": "no"},
        )
        self._streams = streams
        self._last_event_id = last_event_id
        self._until = until
        self._still = still
        self._scope: Scope = {}
        self._sending: asyncio.Timeout | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, or answer 503 if there are too many streams."""
        if not self._streams.enter(self):
            full = "this process has reached its limit of live streams; close some, or read the task list instead"
            answer = problem_answer(scope, TOO_MANY_STREAMS, full, {"Retry-After": "10"})
            await answer(scope, receive, send)
            return
        self._scope = scope
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.leave(self, scope)

    async def stream_response(self, send: Send) -> None:
        """Send the changes; a send that takes too long ends the stream and the connection."""
        frames = self._streams.frames(self._last_event_id, self._until, self._still)

        async def bounded(message: Message) -> None:
            async with asyncio.timeout(self._streams.send_timeout) as self._sending:
                await send(message)

        self.body_iterator: AsyncContentStream = frames
        try:
            await super().stream_response(bounded)
        except TimeoutError:
            await self._streams.cut_off(self._scope)
        finally:
            await frames.aclose()

    def hurry(self, deadline: float) -> None:
        """End the current send by `deadline`, an event-loop time."""
        sending = self._sending
        if sending is not None and (due := sending.when()) is not None and deadline < due:
            try:
                sending.reschedule(deadline)
            except RuntimeError:
                # It has already ended.
                self._sending = None


async def frames(
    source: EventSource,
    last_event_id: str | None = None,
    *,
    heartbeat: float = HEARTBEAT,
    until: float | None = None,
    still: Still | None = None,
    recheck: float = RECHECK,
    stopping: asyncio.Future[None] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncGenerator[bytes, None]:
    """The bytes of the stream: changes as they happen, and a comment after `heartbeat` seconds without a change.

    A new stream begins with an event `begin`. A client that continues from its id misses nothing.
    """
    start = last_event_id or source.cursor
    changes = source.subscribe(start)
    yield b"retry: %d\n\n" % RECONNECT_MS
    if last_event_id is None:
        yield frame(start, "begin", {})
    coming: asyncio.Future[bytes] | None = None
    checked = clock.monotonic()
    patience = heartbeat if still is None else min(heartbeat, recheck)
    try:
        while True:
            left = heartbeat if until is None else until - clock.now().timestamp()
            if left <= 0 or (stopping is not None and stopping.done()):
                return
            if still is not None and clock.monotonic() - checked >= recheck:
                checked = clock.monotonic()
                if not await still():
                    return
            coming = coming or asyncio.ensure_future(_next(changes))
            ends: set[asyncio.Future[Any]] = {coming} if stopping is None else {coming, stopping}
            await asyncio.wait(ends, timeout=min(left, patience), return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                try:
                    data = coming.result()
                except StopAsyncIteration:
                    return
                finally:
                    coming = None
                yield data
            elif left >= patience and not (stopping is not None and stopping.done()):
                yield b": heartbeat\n\n"
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await changes.aclose()


async def _next(changes: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(changes)
