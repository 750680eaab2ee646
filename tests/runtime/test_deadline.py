"""Time limits: one that the clock of a test turns, and one that insists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from taskflow_otel.runtime.deadline import insistent, within
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


class Stubborn:
    """A piece of work that waits again after its first cancellation, as a driver does that asks the server to stop."""

    def __init__(self, clock: FakeClock) -> None:
        self.cancelled: list[float] = []
        self.lift: Callable[[], None] = lambda: None
        self._clock = clock
        self.work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with insistent(self._clock, 5, 1) as self.lift:
            try:
                await self._wait()
            finally:
                await self._wait()

    async def _wait(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.append(self._clock.monotonic())


async def test_a_body_that_waits_after_its_cancellation_is_cancelled_again() -> None:
    stubborn = Stubborn(clock := FakeClock())
    await clock.advance(5.5)
    assert stubborn.cancelled == [5]
    await clock.advance(1)
    with pytest.raises(TimeoutError):
        await stubborn.work
    assert stubborn.cancelled == [5, 6]


async def test_a_body_that_ends_at_its_first_cancellation_gets_no_second_one() -> None:
    clock = FakeClock()

    async def body() -> int:
        with pytest.raises(TimeoutError):
            async with insistent(clock, 5, 1):
                await asyncio.get_running_loop().create_future()
        await clock.sleep(10)
        return asyncio.current_task().cancelling()  # type: ignore[union-attr]  # it runs in one

    work = asyncio.create_task(body())
    await clock.advance(5.5)
    await clock.advance(20)
    assert await work == 0


async def test_a_limit_that_was_lifted_cancels_nothing() -> None:
    stubborn = Stubborn(clock := FakeClock())
    await clock.advance(1)
    stubborn.lift()
    await clock.advance(20)
    assert stubborn.cancelled == []
    for _ in range(2):
        stubborn.work.cancel()
        await clock.advance(0)
    with pytest.raises(asyncio.CancelledError):
        await stubborn.work
