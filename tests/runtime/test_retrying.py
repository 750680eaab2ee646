"""An operation on a backend that is tried again until it succeeds."""

from __future__ import annotations

import pytest

from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.runtime.clock import SystemClock
from taskflow_otel.runtime.retrying import BACKEND, Backoff, retrying


class Patient(SystemClock):
    """Waits for nothing, and remembers for how long it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def test_an_error_that_may_pass_is_waited_for_longer_each_time_up_to_a_limit() -> None:
    clock, errors = Patient(), [BackendUnavailableError("down")] * 8

    async def operation() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert await retrying(clock, operation) == "done"
    assert clock.waits[:3] == [BACKEND.first, BACKEND.first * 2, BACKEND.first * 4]
    assert clock.waits[-1] == BACKEND.longest


async def test_an_error_for_good_is_raised_at_once() -> None:
    clock = Patient()

    async def operation() -> None:
        raise BackendError("no", transient=False)

    with pytest.raises(BackendError, match="no"):
        await retrying(clock, operation)
    assert clock.waits == []


async def test_the_judge_of_the_errors_decides_when_to_give_up_and_knows_the_next_wait() -> None:
    clock, waits = Patient(), list[float]()

    async def operation() -> None:
        raise OSError("gone")

    def judge(exc: Exception, wait: float) -> None:
        waits.append(wait)
        if wait > 4.0:
            raise exc

    with pytest.raises(OSError, match="gone"):
        await retrying(clock, operation, backoff=Backoff(first=1.0, longest=30.0), judge=judge)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert clock.waits == [1.0, 2.0, 4.0]


def test_a_backoff_stays_at_its_longest_wait_after_any_number_of_failures() -> None:
    assert Backoff(first=1.0, longest=30.0).after(1_000_000) == 30.0
