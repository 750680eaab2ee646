"""Waits that end by the clock: in small steps, each on its own, and without leaving anything behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taskflow_otel.runtime.clock import SystemClock
from taskflow_otel.runtime.timers import Timers
from taskflow_otel.testing.clock import FakeClock
from tests.waiting import eventually

MANY = 10_000
SLICE = 1_000
"""No single callback of the event loop may deal with more waits than this."""


async def test_waits_that_end_at_one_moment_end_in_slices() -> None:
    timers = Timers(SystemClock())
    ended = 0

    def end() -> None:
        nonlocal ended
        ended += 1

    for _ in range(MANY):
        timers.after(0, end)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ended <= SLICE
    await eventually(lambda: ended == MANY, "all waits to end")


async def test_timers_that_were_taken_back_do_not_pile_up() -> None:
    timers = Timers(SystemClock())
    for _ in range(MANY):
        timers.after(3600, lambda: None).cancel()
    assert len(timers._heap) < SLICE


async def test_a_timer_that_fails_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    timers = Timers(SystemClock())
    rung = asyncio.Event()

    def fail() -> None:
        raise ValueError("broken")

    timers.after(0, fail)
    timers.after(0, rung.set)
    await asyncio.wait_for(rung.wait(), 30)
    assert "a timer of the engine failed" in caplog.text


async def test_waits_for_a_time_of_the_day_end_though_the_monotonic_clock_stood_still() -> None:
    clock = FakeClock()
    timers, ended = Timers(clock), list[str]()
    timers.at(clock.now() + timedelta(minutes=10), lambda: ended.append("at"))
    timers.at(clock.now() + timedelta(minutes=90), lambda: ended.append("later"))
    timers.after(600, lambda: ended.append("after"))
    timers.at(clock.now() + timedelta(minutes=20), lambda: ended.append("cancelled")).cancel()
    early = timers.after(600, lambda: ended.append("early"))
    timers.look()
    assert ended == []
    early.end()
    early.end()
    assert ended.pop() == "early"
    clock.set_wall(clock.now() + timedelta(hours=1))
    timers.look()
    assert ended == ["at"]
    await clock.advance(1800)
    assert ended == ["at", "after", "later"]
