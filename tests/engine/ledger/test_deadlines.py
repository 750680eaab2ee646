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

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which no timer is called, as in a process that is stopped."""
        self._move_to(self.monotonic() + seconds)

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers += 1
        return super().call_later(delay, callback)


class Waiting:
    """Commits that wait, and those that were given up."""

    def __init__(self) -> None:
        self.clock = CountingClock()
        self.entries: list[Commit] = []
        self.given_up: list[Commit] = []
        self.sent: list[Commit] = []
        self.lease_holds = True
        self.deadlines = Deadlines(
            self.clock,
            lambda: self.entries,
            self.given_up.extend,
            sent=self.sent.__contains__,
            lease_holds=lambda: self.lease_holds,
            chance=3.0,
        )

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


async def test_after_a_pause_beyond_the_lease_one_that_was_sent_gets_a_chance(waiting: Waiting) -> None:
    sent, unsent, endless = waiting.commit(2), waiting.commit(2), waiting.commit(FOREVER)
    waiting.sent += [sent, endless]
    waiting.lease_holds = False
    await waiting.clock.advance(1.5)
    waiting.clock.stand_still(10)
    await waiting.clock.advance(0)
    assert waiting.given_up == [unsent]
    unsent.future.cancel()
    await waiting.clock.advance(2.9)
    assert waiting.given_up == [unsent]
    await waiting.clock.advance(0.2)
    assert waiting.given_up == [unsent, sent]
    assert endless.deadline == FOREVER


@pytest.mark.parametrize("pause", [0, 10])
async def test_without_a_pause_or_within_the_lease_it_gets_none(waiting: Waiting, pause: float) -> None:
    waiting.lease_holds = pause > 0
    sent = waiting.commit(2)
    waiting.sent.append(sent)
    waiting.clock.stand_still(pause)
    await waiting.clock.advance(2)
    assert waiting.given_up == [sent]


async def test_under_a_new_id_one_that_was_sent_gets_a_chance(waiting: Waiting) -> None:
    sent, unsent = waiting.commit(2), waiting.commit(2)
    waiting.sent.append(sent)
    await waiting.clock.advance(1)
    waiting.deadlines.spare()
    await waiting.clock.advance(2)
    assert waiting.given_up == [unsent]
    unsent.future.cancel()
    await waiting.clock.advance(1)
    assert waiting.given_up == [unsent, sent]


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
