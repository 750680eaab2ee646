"""Since when the backend fails, what is logged about it, and when waiting for a lock counts as that."""

from __future__ import annotations

import logging

import pytest

from taskflow_otel.engine.ledger.backend_health import PATIENCE, BackendHealth
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.testing.clock import FakeClock

DOWN = BackendUnavailableError("no route to host")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock) -> BackendHealth:
    return BackendHealth("sqlite", clock)


async def test_a_failure_is_logged_at_its_beginning_and_at_its_end(
    health: BackendHealth, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        health.failed(DOWN)
        await clock.advance(2)
    assert health.failing_since is not None
    health.answered()
    health.answered()
    assert health.answers == 2
    assert not health.failing_since
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the sqlite backend fails: no route to host. Trying again, with backoff."),
        ("WARNING", "the sqlite backend answers again, after 6.0 s"),
    ]


def test_an_error_that_is_not_of_the_library_is_logged_with_its_traceback(
    health: BackendHealth, caplog: pytest.LogCaptureFixture
) -> None:
    health.failed(ZeroDivisionError("a driver's mistake"))
    assert caplog.records[0].exc_info is not None
    assert "a driver's mistake" in caplog.text


async def test_waiting_for_a_lock_is_a_failure_only_if_nothing_succeeds_for_a_while(
    health: BackendHealth, clock: FakeClock
) -> None:
    health.held(DOWN, clock.monotonic())
    await clock.advance(PATIENCE / 2)
    health.answered()
    health.held(DOWN, clock.monotonic())
    await clock.advance(PATIENCE)
    health.held(DOWN, clock.monotonic())
    assert health.failing_since is None
    await clock.advance(0.1)
    health.held(DOWN, clock.monotonic())
    assert health.failing_since is not None


def test_history_that_is_refused_for_good_is_counted_and_named(
    health: BackendHealth, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        health.lost(3, "task-7", BackendError("too large", transient=False))
        health.lost(1, "task-8", BackendError("too large", transient=False))
    assert health.dropped_history == 4
    assert caplog.messages[0] == "history of task task-7 could not be written and is dropped: too large"
