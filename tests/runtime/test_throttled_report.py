"""Failures that recur: counted always, logged at most once a minute."""

from __future__ import annotations

import pytest

from taskflow_otel.runtime.throttled_report import Once, Outage, Throttle, ThrottledReport
from taskflow_otel.testing.clock import FakeClock
from tests.clocks import HandClock


def test_a_recurring_failure_is_logged_once_a_minute_with_its_number(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    report = ThrottledReport(clock)
    for second in (0, 10, 59, 61):
        clock.seconds = second
        report.add("disk", "is full")
    assert [record.getMessage() for record in caplog.records] == [
        "disk is full (1 times since last reported)",
        "disk is full (3 times since last reported)",
    ]
    assert report.counts == {"disk": 4}


def test_each_message_is_throttled_by_itself() -> None:
    clock = HandClock()
    throttle = Throttle(clock)
    assert [throttle.passes("a"), throttle.passes("b"), throttle.passes("a")] == [True, True, False]
    clock.seconds = 60.0
    assert throttle.passes("a")


def test_a_message_that_passes_once_never_passes_again() -> None:
    once = Once()
    assert [once.passes("a"), once.passes("b"), once.passes("a")] == [True, True, False]


async def test_an_outage_begins_with_its_first_failure_and_ends_with_a_success() -> None:
    clock = FakeClock()
    outage = Outage(clock)
    assert (outage.ended(), outage.since) == (None, None)
    assert [outage.failed(), outage.failed()] == [True, False]
    await clock.advance(3.0)
    assert outage.failures == 2
    assert outage.ended() == 3.0
    assert (outage.failures, outage.ended()) == (0, None)
    assert outage.failed()
