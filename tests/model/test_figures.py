"""What a finished task adds to the figures, and what is read from them."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import pytest

from taskflow_otel.model.figures import (
    RETRIED,
    UNTIMED,
    WAIT,
    Distribution,
    Figure,
    FigureTally,
    Span,
    band_limit,
    band_of,
    bucket_of,
    figures_of,
    first_wait,
    moment_of,
)
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import Reason

AT = datetime(2026, 3, 1, 12, 34, 56, 789, tzinfo=UTC)


def ran(**fields: object) -> TaskRecord:
    """A task that waited a second and ran for two."""
    record = TaskRecord("id", "send", TaskStatus.SUCCESS, AT, duration=2.0, end_time=AT + timedelta(seconds=3))
    record.timeline = (
        TimelineEntry(Transition.ENQUEUED, AT, 0, "one"),
        TimelineEntry(Transition.STARTED, AT + timedelta(seconds=1), 0, "one"),
        TimelineEntry(Transition.SUCCEEDED, AT + timedelta(seconds=3), 0, "one"),
    )
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def test_the_limits_of_a_bucket_are_close_to_each_other() -> None:
    values = [1e-4 * 2 ** (step / 64) for step in range(64 * 30)]
    buckets = [bucket_of(value) for value in values]
    assert buckets == sorted(buckets)
    for one, value in enumerate(values):
        for other in range(one, min(one + 9, len(values))):
            if buckets[one] == buckets[other]:
                assert values[other] / value < 1.091
    assert (bucket_of(0.0), bucket_of(9e-5), bucket_of(1e9)) == (0, 0, bucket_of(1e30))


def test_a_band_has_the_run_times_from_its_limit_to_twice_that() -> None:
    for value in (0.0, 5e-5, 1.1e-4, 1.9e-4, 2.1e-4, 0.3, 1.0, 77.0, 1e6):
        band = band_of(bucket_of(value))
        assert band_limit(band) <= value < band_limit(band + 1)
    assert band_limit(3) == 2 * band_limit(2) == 4 * band_limit(1) > band_limit(0) == 0.0


def test_the_greatest_values_are_found_from_the_top() -> None:
    runs = Distribution()
    for seconds, tasks in ((1.0, 50), (4.0, 3), (9.0, 2)):
        runs.add(Figure(0, "", "success", bucket_of(seconds), tasks, int(seconds * 1e6) * tasks))
    assert [runs.from_top(number) for number in (1, 2, 3, 5, 6, 99)] == [
        (bucket_of(9.0), 2), (bucket_of(9.0), 2), (bucket_of(4.0), 5), (bucket_of(4.0), 5), (bucket_of(1.0), 55),
        (0, 55),
    ]  # fmt: skip
    assert (runs.seconds, Distribution().seconds) == (80.0, 0)


def test_a_percentile_is_close_to_that_of_all_values_and_exact_where_they_are_equal() -> None:
    draw = random.Random(7)  # nosec B311  # the same sample each time
    values = [draw.lognormvariate(0, 2) for _ in range(5_000)]
    runs, tally = Distribution(), FigureTally()
    for value in values:
        tally.add(ran(duration=value))
    for figure in tally.figures(Span.MINUTE):
        if figure.kind != WAIT:
            runs.add(figure)
    assert runs.count == len(values)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = sorted(values)[math.ceil(share * len(values)) - 1]
        assert runs.percentile(share) == pytest.approx(exact, rel=0.091)
    same = Distribution()
    assert same.percentile(0.5) is None
    same.add(Figure(0, "", "success", bucket_of(11.0), 3, 33_000_000))
    same.add(Figure(0, "", "cancelled", UNTIMED, 500, 0))
    assert (same.percentile(0.95), same.count) == (11.0, 3)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ran(), [("success", bucket_of(2.0), 2_000_000), (WAIT, bucket_of(1.0), 1_000_000)]),
        (ran(status=TaskStatus.RUNNING), []),
        (
            ran(retries_used=2),
            [("success", bucket_of(2.0), 2_000_000), (WAIT, bucket_of(1.0), 1_000_000), (RETRIED, 2, 0)],
        ),
        (ran(status=TaskStatus.REJECTED, timeline=(), duration=None), [("rejected", UNTIMED, 0)]),
    ],
)
def test_a_finished_task_adds_its_end_and_its_wait(record: TaskRecord, expected: list[tuple[str, int, int]]) -> None:
    assert figures_of(record) == expected
    tally = FigureTally()
    tally.add(record)
    if record.status.finished:
        assert [(f.kind, f.bucket, f.micros) for f in tally.figures(Span.MINUTE)] == sorted(expected)


def test_a_delay_that_was_asked_for_is_no_wait() -> None:
    [_, *rest] = ran().timeline
    delayed = (TimelineEntry(Transition.ENQUEUED, AT, 0, "one", Reason.DELAYED.value), *rest)
    assert first_wait(ran()) == 1.0
    assert first_wait(ran(timeline=delayed, run_at=AT + timedelta(seconds=0.75))) == 0.25
    assert first_wait(ran(timeline=delayed, run_at=AT + timedelta(seconds=9))) == 0.0
    assert first_wait(ran(timeline=delayed, run_at=AT + timedelta(seconds=0.75), attempt=1)) is None


def test_the_figures_of_an_hour_are_the_sum_of_those_of_its_minutes() -> None:
    tally, other = FigureTally(), FigureTally()
    for minute in (0, 0, 1, 40):
        (tally if minute else other).add(ran(end_time=AT + timedelta(minutes=minute)))
    tally.merge(other)
    minutes, hours = ([f for f in tally.figures(span) if f.kind == WAIT] for span in (Span.MINUTE, Span.HOUR))
    start = AT.replace(minute=0, second=0, microsecond=0)
    assert [(moment_of(f.slot) - start, f.tasks) for f in minutes] == [
        (timedelta(minutes=34), 2),
        (timedelta(minutes=35), 1),
        (timedelta(minutes=74), 1),
    ]
    assert [(moment_of(f.slot) - start, f.tasks, f.micros) for f in hours] == [
        (timedelta(0), 3, 3_000_000),
        (timedelta(hours=1), 1, 1_000_000),
    ]
