"""The machine's clock, and what may not outlive a request that sets a timer."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from datetime import UTC, datetime

from taskflow_otel.runtime.clock import SystemClock

who: ContextVar[str] = ContextVar("who", default="nobody")


async def test_a_timer_runs_in_a_context_of_its_own() -> None:
    who.set("a request")
    called: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    SystemClock().call_later(0, lambda: called.set_result(who.get()))
    assert await called == "nobody"


async def test_a_timer_that_was_taken_back_does_not_ring() -> None:
    rung: list[str] = []
    clock = SystemClock()
    handle = clock.call_later(0, lambda: rung.append("taken back"))
    handle.cancel()
    handle.cancel()
    await clock.sleep(0.001)
    assert rung == []


def test_the_present_moment_is_aware_and_in_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert (now.tzinfo, before <= now <= datetime.now(UTC)) == (UTC, True)
