"""Commits are given up at their time, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from taskflow_otel.backends.base import Applied, Insert
from taskflow_otel.engine.ledger.batch import Commit
from taskflow_otel.engine.ledger.deadlines import FOREVER, Deadlines
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.testing.clock import FakeClock, FakeTimer


class CountingClock(FakeClock):
    """Counts the timers that are set."""

    timers = 0

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers += 1
        return super().call_later(delay, callback)


class Waiting:
    """Commits that wait, and those that were given up."""

    def __init__(self) -> None:
        self.clock = CountingClock()
        self.entries: list[Commit] = []
        self.given_up: list[Commit] = []
        self.deadlines = Deadlines(self.clock, lambda: self.entries, self.given_up.extend)

    def commit(self, limit: float) -> Commit:
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        entry = Commit(Insert(make_task()), future, self.deadlines.after(limit))
        self.entries.append(entry)
        return entry


@pytest.fixture
async def waiting() -> Waiting:
    return Waiting()


async def test_each_is_given_up_at_its_own_time(waiting: Waiting) -> None:
    late, early = waiting.commit(5), waiting.commit(2)
    await waiting.clock.advance(1.9)
    assert waiting.given_up == []
    await waiting.clock.advance(0.2)
    assert waiting.given_up == [early]
    early.future.cancel()
    await waiting.clock.advance(3)
    assert waiting.given_up == [early, late]


async def test_many_that_begin_one_after_another_need_one_timer(waiting: Waiting) -> None:
    for _ in range(50):
        waiting.commit(5)
        await waiting.clock.advance(0.01)
    assert waiting.clock.timers == 1


async def test_one_that_has_ended_is_not_given_up(waiting: Waiting) -> None:
    waiting.commit(1).future.cancel()
    await waiting.clock.advance(10)
    assert waiting.given_up == []


async def test_one_without_a_limit_waits_for_ever_and_sets_no_timer(waiting: Waiting) -> None:
    assert waiting.commit(FOREVER).deadline == FOREVER
    assert waiting.clock.timers == 0


async def test_after_the_stop_nothing_is_given_up(waiting: Waiting) -> None:
    waiting.commit(1)
    waiting.deadlines.stop()
    await waiting.clock.advance(10)
    assert waiting.given_up == []
