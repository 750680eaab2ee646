"""What an event says, against the record that it is made from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskflow_otel.model.events import LifecycleEvent, LogEvent, lifecycle_event
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
OWN = {"transition", "previous", "timestamp", "queue_wait", "span", "exception", "objective"}


def a_record() -> TaskRecord:
    """A record in which no two values are equal."""
    moments = (MOMENT + timedelta(seconds=number) for number in range(1, 10))
    return TaskRecord(
        task_id="id",
        func_name="name",
        status=TaskStatus.FAILED,
        created_at=next(moments),
        run_at=next(moments),
        start_time=next(moments),
        end_time=next(moments),
        duration=0.5,
        attempt=7,
        retries_used=8,
        error="error",
        error_type="error type",
        stacktrace="stack",
        tags={"tag": "value"},
        source="source",
        priority=9,
        executor="executor",
        queue="queue",
        instance="instance",
        reason="reason",
        trace=TaskTrace(SpanRef("1" * 32, "1" * 16), SpanRef("2" * 32, "2" * 16)),
    )


def test_an_event_has_each_value_of_its_record_under_the_same_name() -> None:
    record = a_record()
    event = lifecycle_event(record, Transition.FAILED, TaskStatus.RUNNING, MOMENT, queue_wait=0.25)
    for name in set(LifecycleEvent.__struct_fields__) - OWN:
        assert getattr(event, name) is getattr(record, name), name
    assert (event.transition, event.previous, event.timestamp) == (Transition.FAILED, TaskStatus.RUNNING, MOMENT)
    assert (event.queue_wait, event.exception) == (0.25, None)


def test_an_event_belongs_to_the_span_of_the_attempt_and_before_it_to_that_of_the_creation() -> None:
    record = a_record()
    assert lifecycle_event(record, Transition.FAILED, None, MOMENT).span is record.trace.attempt
    record.trace.attempt = None
    assert lifecycle_event(record, Transition.FAILED, None, MOMENT).span is record.trace.creation


def test_an_event_does_not_change_with_its_record() -> None:
    record = a_record()
    event = lifecycle_event(record, Transition.FAILED, TaskStatus.RUNNING, MOMENT)
    record.attempt, record.error, record.status = 10, "another", TaskStatus.SUCCESS
    assert (event.attempt, event.error, event.status) == (7, "error", TaskStatus.FAILED)


def test_events_are_equal_whatever_their_exceptions() -> None:
    record = a_record()
    one, same, other = (
        lifecycle_event(record, Transition.FAILED, None, MOMENT, queue_wait=wait, exception=exception)
        for wait, exception in ((1.0, None), (1.0, ValueError()), (2.0, None))
    )
    assert one == same
    assert one != other
    assert one != "an event"


def test_an_event_cannot_be_changed() -> None:
    event = lifecycle_event(a_record(), Transition.FAILED, None, MOMENT)
    with pytest.raises(AttributeError):
        event.attempt = 3  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(("status", "transition"), [(TaskStatus.PENDING, "enqueued"), (TaskStatus.FAILED, "failed")])
def test_an_event_made_by_hand_needs_only_what_a_test_of_an_observer_cares_about(
    status: TaskStatus, transition: str
) -> None:
    event = LifecycleEvent("id", "name", status, MOMENT, 0, 0, tags={"a": "b"})
    assert (event.transition, event.created_at, event.trace_id) == (transition, MOMENT, None)
    log = LogEvent("id", "name", "said", "info", MOMENT, 0)
    assert (log.tags, log.extra, log.queue) == ({}, {}, "default")
