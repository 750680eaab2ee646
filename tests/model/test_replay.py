"""A task's history told again from its record."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskflow_otel.errors import IllegalTransitionError
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.replay import replay
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.testing.backends.samples import BASE, make_task


def told(*story: tuple[Transition, float, int] | tuple[Transition, float, int, str]) -> TaskRecord:
    """A record with this timeline: transition, seconds, attempt, and perhaps a reason."""
    timeline = [
        TimelineEntry(transition, BASE + timedelta(seconds=seconds), attempt, "one", next(iter(reason), None))
        for transition, seconds, attempt, *reason in story
    ]
    return make_task(created_at=BASE, timeline=tuple(timeline))


def retried() -> TaskRecord:
    record = told(
        (Transition.ENQUEUED, 0, 0),
        (Transition.STARTED, 1, 0),
        (Transition.RETRY_SCHEDULED, 3, 0, "retry_wait"),
        (Transition.STARTED, 10, 1),
        (Transition.SUCCEEDED, 12, 1),
    )
    record.status, record.run_at = TaskStatus.SUCCESS, BASE + timedelta(seconds=8)
    record.duration, record.end_time = 1.9, BASE + timedelta(seconds=12)
    return record


def test_each_line_becomes_an_event_in_the_states_of_the_table() -> None:
    events = list(replay(retried()))
    assert [(event.previous, event.status) for event in events] == [
        (None, TaskStatus.PENDING),
        (TaskStatus.PENDING, TaskStatus.RUNNING),
        (TaskStatus.RUNNING, TaskStatus.PENDING),
        (TaskStatus.PENDING, TaskStatus.RUNNING),
        (TaskStatus.RUNNING, TaskStatus.SUCCESS),
    ]
    assert [event.retries_used for event in events] == [0, 0, 1, 1, 1]
    assert [event.attempt for event in events] == [0, 0, 0, 1, 1]


def test_the_measured_run_time_belongs_to_the_last_attempt_alone() -> None:
    events = list(replay(retried()))
    assert [event.duration for event in events] == [None, None, None, None, 1.9]


def test_a_wait_for_a_slot_begins_when_a_deliberate_delay_ends() -> None:
    events = list(replay(retried()))
    assert [event.queue_wait for event in events] == [None, 1.0, None, 2.0, None]


def test_a_delay_whose_end_is_not_known_gives_no_wait() -> None:
    record = retried()
    record.run_at = BASE + timedelta(seconds=2)
    assert [event.queue_wait for event in replay(record)][3] is None


def test_the_error_belongs_to_the_latest_failure() -> None:
    record = told(
        (Transition.ENQUEUED, 0, 0),
        (Transition.STARTED, 1, 0),
        (Transition.RETRY_SCHEDULED, 2, 0),
        (Transition.STARTED, 3, 1),
        (Transition.FAILED, 4, 1),
    )
    record.error, record.error_type = "boom", "ValueError"
    assert [(event.error, event.error_type) for event in replay(record)] == [
        (None, None), (None, None), (None, None), (None, None), ("boom", "ValueError"),
    ]  # fmt: skip


def test_a_timeline_that_the_engine_cannot_have_written_is_refused() -> None:
    with pytest.raises(IllegalTransitionError):
        list(replay(told((Transition.ENQUEUED, 0, 0), (Transition.SUCCEEDED, 1, 0))))
