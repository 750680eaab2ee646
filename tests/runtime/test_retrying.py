"""An operation on a backend that is tried again until it succeeds."""

from __future__ import annotations

import pytest

from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.runtime.clock import SystemClock
from taskflow_otel.runtime.retrying import FIRST_BACKOFF, LONGEST_BACKOFF, retrying


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
    assert clock.waits[:3] == [FIRST_BACKOFF, FIRST_BACKOFF * 2, FIRST_BACKOFF * 4]
    assert clock.waits[-1] == LONGEST_BACKOFF


async def test_an_error_for_good_is_raised_at_once() -> None:
    clock = Patient()

    async def operation() -> None:
        raise BackendError("no", transient=False)

    with pytest.raises(BackendError, match="no"):
        await retrying(clock, operation)
    assert clock.waits == []
