"""A reader waits briefly for a backend that is away, and long for a slow one."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel.engine.patience import Patience
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK

LONG = 30.0


class Link:
    """A backend as heartbeats know it."""

    def __init__(self) -> None:
        self.away = False
        self.heard_at = float("-inf")
        self.cancelled = False

    def patience(self, *, patience: float, impatience: float) -> Patience:
        return Patience(
            SYSTEM_CLOCK, lambda: self.away, lambda: self.heard_at, patience=patience, impatience=impatience
        )

    async def silence(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def at_once() -> str:
    return "here"


async def refused() -> str:
    raise LookupError("not here")


async def test_an_answer_or_an_error_is_passed_on() -> None:
    patience = Link().patience(patience=LONG, impatience=LONG)
    assert await patience.wait_for(at_once()) == "here"
    with pytest.raises(LookupError):
        await patience.wait_for(refused())


@pytest.mark.parametrize("away", [False, True])
async def test_without_any_answer_the_read_is_given_up(away: bool) -> None:
    link = Link()
    link.away = away
    # The other one would take too long.
    patience = link.patience(patience=LONG if away else 0.01, impatience=0.01 if away else LONG)
    with pytest.raises(BackendUnavailableError, match=r"has not answered for 0\.01 s"):
        await patience.wait_for(link.silence())
    assert link.cancelled


async def test_a_backend_that_confirms_heartbeats_is_only_slow() -> None:
    link, answer = Link(), asyncio.Event()
    rounds = 0

    def heard_at() -> float:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            answer.set()
        return float("inf")

    async def slow() -> str:
        await answer.wait()
        return "late"

    patience = Patience(SYSTEM_CLOCK, lambda: link.away, heard_at, patience=0.01, impatience=0.01)
    assert await patience.wait_for(slow()) == "late"
    assert rounds == 3


async def test_a_reader_that_stops_waiting_ends_the_read() -> None:
    link = Link()
    waiting = asyncio.create_task(link.patience(patience=LONG, impatience=LONG).wait_for(link.silence()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert link.cancelled
