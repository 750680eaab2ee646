"""Objectives: their ranges, when a task is due, and what each line of a timeline decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow_otel import SLO
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.objective import due_of, missed, result_of, verdict
from taskflow_otel.model.record import NEVER_DUE, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.task_options import make_task_config
from taskflow_otel.model.vocabulary import Reason

START = datetime(2026, 1, 1, tzinfo=UTC)
DUE = START + timedelta(seconds=30)
T = Transition


@pytest.mark.parametrize(
    "options",
    [
        {"success": 0},
        {"success": 1},
        {"success": -0.1},
        {"success": 99.9},
        {"success": float("nan")},
        {"success": True},
        {"success": "0.99"},
        {"success": 0.9, "within": 0},
        {"success": 0.9, "within": timedelta(seconds=-1)},
        {"success": 0.9, "within": float("inf")},
        {"success": 0.9, "within": "1h"},
        {"success": 0.9, "window": timedelta(hours=23)},
        {"success": 0.9, "window": timedelta(days=36)},
    ],
    ids=str,
)
def test_a_value_outside_its_range_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"SLO\.(success|within|window) must be"):
        SLO(**options)


def test_an_objective_is_a_constant_in_seconds_or_as_a_timedelta() -> None:
    slo = SLO(success=0.999, within=timedelta(minutes=1), window=timedelta(days=7))
    assert (slo.within_seconds, slo.window_seconds) == (60.0, 604_800.0)
    assert (SLO(success=0.5).within_seconds, SLO(success=0.5).window_seconds) == (None, 30 * 86_400.0)
    with pytest.raises(AttributeError):
        slo.success = 0.5  # type: ignore[misc]  # that is the test


def test_a_task_type_takes_nothing_else_as_its_objective() -> None:
    with pytest.raises(ConfigurationError, match="slo must be an SLO"):
        make_task_config(name="job", executor="async", slo=0.999)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    ("run_at", "due"),
    [
        (None, DUE),
        (START - timedelta(days=1), DUE),
        (START + timedelta(hours=1), DUE + timedelta(hours=1)),
    ],
    ids=["at once", "in the past", "delayed"],
)
def test_the_time_runs_from_the_moment_when_the_task_could_run(run_at: datetime | None, due: datetime) -> None:
    record = TaskRecord("1", "job", TaskStatus.PENDING, START, run_at=run_at)
    assert due_of(SLO(success=0.9, within=30), record) == due
    assert due_of(SLO(success=0.9), record) == NEVER_DUE
    assert due_of(None, record) is None


def story(
    *lines: tuple[Transition, float] | tuple[Transition, float, Reason], due: datetime | None = DUE
) -> TaskRecord:
    """A record with this timeline: transition, seconds, perhaps a reason."""
    timeline = [TimelineEntry(T.ENQUEUED, START, 0, "one", None, due)]
    for transition, seconds, *reason in lines:
        timeline.append(
            TimelineEntry(transition, START + timedelta(seconds=seconds), 0, "one", next(iter(reason), None))
        )
    return TaskRecord("1", "job", TaskStatus.PENDING, START, timeline=tuple(timeline))


@pytest.mark.parametrize(
    ("lines", "results"),
    [
        ([(T.STARTED, 1), (T.SUCCEEDED, 30)], [None, None, "good"]),
        ([(T.STARTED, 1), (T.SUCCEEDED, 30.001)], [None, None, "bad"]),
        ([(T.STARTED, 1), (T.FAILED, 2)], [None, None, "bad"]),
        ([(T.STARTED, 1), (T.INTERRUPTED, 2)], [None, None, "bad"]),
        ([(T.OBJECTIVE_MISSED, 31), (T.STARTED, 32), (T.SUCCEEDED, 33)], [None, "bad", None, None]),
        ([(T.STARTED, 1), (T.OBJECTIVE_MISSED, 31), (T.FAILED, 32)], [None, None, "bad", None]),
        ([(T.OBJECTIVE_MISSED, 31), (T.RECOVERED, 32), (T.CANCELLED, 33, Reason.CANCELLED)], [None, "bad", None, None]),
        ([(T.STARTED, 1), (T.RETRY_SCHEDULED, 2), (T.STARTED, 3), (T.SUCCEEDED, 4)], [None, None, None, None, "good"]),
        ([(T.CANCELLED, 1, Reason.CANCELLED)], [None, None]),
        ([(T.CANCELLED, 1, Reason.REQUEST_FAILED)], [None, None]),
        ([(T.CANCELLED, 1, Reason.EARLIER_FAILED)], [None, None]),
        ([(T.CANCELLED, 1, Reason.SHUTDOWN)], [None, "bad"]),
        ([(T.CANCELLED, 1, Reason.PROCESS_DIED)], [None, "bad"]),
    ],
    ids=lambda value: "-".join(line[0] for line in value) if value and isinstance(value[0], tuple) else "",
)
def test_at_most_one_line_of_a_timeline_decides(lines: list[Any], results: list[str | None]) -> None:
    timeline = story(*lines).timeline
    assert [result_of(timeline, place) for place in range(len(timeline))] == results
    assert verdict(timeline) == next(filter(None, results), None)
    assert missed(timeline) == any(line[0] is T.OBJECTIVE_MISSED for line in lines)


def test_without_a_limit_any_success_is_good_and_without_an_objective_nothing_is_judged() -> None:
    lines = [(T.STARTED, 1.0), (T.SUCCEEDED, 10.0**9)]
    assert result_of(story(*lines, due=NEVER_DUE).timeline, 2) == "good"
    assert result_of(story(*lines, due=None).timeline, 2) is None
    assert [story(due=due).due_at for due in (DUE, NEVER_DUE, None)] == [DUE, None, None]
