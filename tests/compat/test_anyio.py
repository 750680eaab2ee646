"""What `compat.anyio` relies on. Seen in anyio 4.16.0."""

from __future__ import annotations

import asyncio
import threading

import anyio.from_thread
from anyio.lowlevel import current_token

from taskflow_otel.compat.anyio import serve_loop
from tests.compat.shapes import Shape

SHAPE = Shape("anyio", "4.16.0")


async def test_a_thread_that_serves_a_loop_reaches_it_through_anyio() -> None:
    loop, token = asyncio.get_running_loop(), current_token()
    outcome: list[object] = []
    ended = asyncio.Event()

    async def on_the_loop() -> object:
        return asyncio.get_running_loop()

    def work() -> None:
        try:
            serve_loop(token)
            anyio.from_thread.check_cancelled()
            outcome.append(anyio.from_thread.run(on_the_loop))
            outcome.append(anyio.from_thread.run_sync(asyncio.get_running_loop))
        except Exception as exc:
            outcome.append(exc)
        finally:
            loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=work)
    thread.start()
    await ended.wait()
    thread.join()
    SHAPE.holds(
        outcome == [loop, loop],
        "anyio/from_thread.py finds the event loop of a thread otherwise than by threadlocals.current_token and "
        f"threadlocals.current_cancel_scope of anyio/_core/_eventloop.py (it answered {outcome!r}); look at what "
        "WorkerThread.run in anyio/_backends/_asyncio.py sets.",
    )
