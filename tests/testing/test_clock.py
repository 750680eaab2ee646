"""The clock that a test turns."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

from taskflow_otel.testing.clock import FakeClock

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_timers_ring_in_order_each_at_its_moment() -> None:
    clock, rung = FakeClock(START), []
    for delay in (3, 1, 2, 2.5):
        clock.call_later(delay, lambda: rung.append(clock.monotonic()))
    await clock.advance(2.2)
    assert rung == [1, 2]
    assert (clock.monotonic(), clock.now()) == (2.2, START + timedelta(seconds=2.2))
    await clock.advance(1)
    assert rung == [1, 2, 2.5, 3]


async def test_timers_of_one_moment_ring_in_the_order_in_which_they_were_set() -> None:
    clock, rung = FakeClock(), []
    for name in "abc":
        clock.call_later(1, lambda name=name: rung.append(name))  # type: ignore[misc]  # bound in the loop
    await clock.advance(1)
    assert rung == ["a", "b", "c"]


async def test_what_a_timer_sets_off_happens_at_its_moment_and_not_at_the_end() -> None:
    clock, woken = FakeClock(), []

    async def sleeper() -> None:
        for _ in range(3):
            await clock.sleep(1)
            woken.append(clock.monotonic())

    work = asyncio.create_task(sleeper())
    await clock.advance(10)
    assert woken == [1, 2, 3]
    await work


async def test_a_timer_that_was_taken_back_does_not_ring() -> None:
    clock, rung = FakeClock(), []
    timer = clock.call_later(1, lambda: rung.append(1))
    timer.cancel()
    await clock.advance(2)
    timer.cancel()
    assert rung == []


async def test_a_sleep_that_was_cancelled_leaves_nothing_to_wake() -> None:
    clock = FakeClock()
    work = asyncio.create_task(clock.sleep(1))
    await clock.advance(0.5)
    work.cancel()
    await asyncio.wait({work})
    await clock.advance(1)
    assert work.cancelled()


async def test_setting_the_wall_lets_no_time_pass() -> None:
    clock, rung = FakeClock(START), []
    clock.call_later(1, lambda: rung.append(1))
    clock.set_wall(datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert (clock.now(), clock.monotonic(), rung) == (datetime(2029, 12, 31, 23, tzinfo=UTC), 0.0, [])
    await clock.advance(1)
    assert rung == [1]
