"""Failures that recur: counted always, logged at most once a minute."""

from __future__ import annotations

import pytest

from taskflow_otel.runtime.throttled_report import Throttle, ThrottledReport


def test_a_recurring_failure_is_logged_once_a_minute_with_its_number(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    report = ThrottledReport(lambda: now[0])
    for second in (0, 10, 59, 61):
        now[0] = second
        report.add("disk", "is full")
    assert [record.getMessage() for record in caplog.records] == [
        "disk is full (1 times since last reported)",
        "disk is full (3 times since last reported)",
    ]
    assert report.counts == {"disk": 4}


def test_each_message_is_throttled_by_itself() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    assert [throttle.passes("a"), throttle.passes("b"), throttle.passes("a")] == [True, True, False]
    now[0] = 60.0
    assert throttle.passes("a")
