"""A time limit that the clock of a test turns."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel.runtime.deadline import within
from taskflow_otel.testing.clock import FakeClock


async def test_the_body_is_cancelled_when_the_clock_says_so() -> None:
    clock, cancelled = FakeClock(), []

    async def body() -> None:
        async with within(clock, 5):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(clock.monotonic())
                raise

    work = asyncio.create_task(body())
    await clock.advance(4.9)
    assert not work.done()
    await clock.advance(0.2)
    with pytest.raises(TimeoutError):
        await work
    assert cancelled == [5]


async def test_a_body_that_ends_in_time_leaves_no_timer() -> None:
    clock = FakeClock()
    async with within(clock, 5):
        pass
    await clock.advance(10)
    assert asyncio.current_task() is not None
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]  # asserted above


async def test_a_cancellation_from_outside_stays_a_cancellation() -> None:
    clock = FakeClock()

    async def body() -> None:
        async with within(clock, 5):
            await asyncio.get_running_loop().create_future()

    work = asyncio.create_task(body())
    await clock.advance(1)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_what_the_body_raises_is_raised() -> None:
    with pytest.raises(KeyError):
        async with within(FakeClock(), 5):
            raise KeyError("its own")
