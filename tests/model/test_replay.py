"""A task's history told again from its record."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskflow_otel.errors import IllegalTransitionError
from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.replay import last_wait, replay
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


def waits(record: TaskRecord) -> list[float]:
    """The wait for a slot before each start, which the engine has measured for each."""
    starts = [event for event in replay(record) if event.transition is Transition.STARTED]
    found = [start.queue_wait for start in starts if start.queue_wait is not None]
    assert len(found) == len(starts) == sum(line.transition is Transition.STARTED for line in record.timeline)
    return found


def test_a_delay_that_has_ended_before_it_was_written_is_no_part_of_the_wait() -> None:
    # A retry without a delay; or the process had no turn for that long.
    record = retried()
    record.run_at = BASE + timedelta(seconds=2)
    assert waits(record) == [1.0, 7.0]


def test_each_of_many_retries_has_its_own_delay() -> None:
    record = told(
        (Transition.ENQUEUED, 0, 0, "delayed"),
        (Transition.STARTED, 6, 0),
        (Transition.RETRY_SCHEDULED, 7, 0, "retry_wait"),
        (Transition.STARTED, 12, 1),
        (Transition.RETRY_SCHEDULED, 13, 1, "retry_wait"),
        (Transition.STARTED, 22, 2),
        (Transition.RETRY_SCHEDULED, 23, 2, "retry_wait"),
        (Transition.STARTED, 34, 3),
    )
    record.run_at = BASE + timedelta(seconds=31)
    planned = [None, 20, 31]
    record.failures = tuple(
        AttemptFailure(number, None, retry_at=None if second is None else BASE + timedelta(seconds=second))
        for number, second in enumerate(planned)
    )
    # Of the first delay, and of the first retry of a long row, nothing is kept.
    assert waits(record) == [0.0, 0.0, 2.0, 3.0]
    assert last_wait(record) == 3.0
    record.timeline = record.timeline[:-1]
    assert last_wait(record) is None


@pytest.mark.parametrize(("run_at", "wait"), [(5, 4.0), (8, 2.0), (12, 0.0)])
def test_a_takeover_does_not_end_a_delay(run_at: float, wait: float) -> None:
    record = told(
        (Transition.ENQUEUED, 0, 0, "delayed"),
        (Transition.RECOVERED, 5, 0, "takeover"),
        (Transition.OBJECTIVE_MISSED, 6, 0),
        (Transition.RECOVERED, 6, 0, "takeover"),
        (Transition.STARTED, 10, 0),
    )
    record.run_at = BASE + timedelta(seconds=run_at)
    assert waits(record) == [wait]


def test_a_task_that_ran_in_a_process_that_died_waits_from_then_on() -> None:
    record = told(
        (Transition.ENQUEUED, 0, 0, "delayed"),
        (Transition.STARTED, 3, 0),
        (Transition.RECOVERED, 20, 0, "process_died"),
        (Transition.STARTED, 21, 1),
    )
    record.run_at = BASE + timedelta(seconds=2)
    assert waits(record) == [1.0, 1.0]


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
