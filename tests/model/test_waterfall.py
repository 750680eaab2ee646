"""The trace of a task as bars, from its timeline and from kept spans."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.spans import AttemptSpans, KeptSpan
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.model.waterfall import Bar, moment_of, waterfall
from taskflow_otel.testing.backends.samples import BASE, make_task

MICROS = round(BASE.timestamp() * 1_000_000)


def told(status: TaskStatus, *story: tuple[Any, ...], **fields: Any) -> TaskRecord:
    """A record with this timeline: transition, seconds, attempt, and perhaps a reason."""
    timeline = [
        TimelineEntry(transition, BASE + timedelta(seconds=seconds), attempt, "one", *reason)
        for transition, seconds, attempt, *reason in story
    ]
    return make_task(created_at=BASE, status=status, timeline=tuple(timeline), **fields)


def span(span_id: str, parent: str, start: float, end: float | None, **fields: Any) -> KeptSpan:
    """A span between these seconds."""
    stop = None if end is None else MICROS + round(end * 1e6)
    return KeptSpan(
        span_id,
        parent,
        fields.pop("name", span_id),
        fields.pop("kind", "internal"),
        MICROS + round(start * 1e6),
        stop,
        **fields,
    )


def shape(bars: list[Bar]) -> list[tuple[Any, ...]]:
    """Name, depth, attempt, and the seconds from `BASE` of both ends."""
    return [
        (
            bar.name,
            bar.depth,
            bar.attempt,
            (bar.start - BASE).total_seconds(),
            None if bar.end is None else (bar.end - BASE).total_seconds(),
        )
        for bar in bars
    ]


def test_the_ledger_alone_knows_waits_and_attempts() -> None:
    record = told(
        TaskStatus.FAILED,
        (Transition.ENQUEUED, 0, 0, "delayed"),
        (Transition.STARTED, 5, 0),
        (Transition.OBJECTIVE_MISSED, 5.5, 0),
        (Transition.RETRY_SCHEDULED, 6, 0, "retry_wait"),
        (Transition.STARTED, 8, 1),
        (Transition.RECOVERED, 9, 1, "process_died"),
        (Transition.RECOVERED, 10, 1),
        (Transition.STARTED, 11, 2),
        (Transition.FAILED, 12, 2, "timeout"),
        attempt=2,
        failures=(AttemptFailure(0, "f", "OSError", "gone"), AttemptFailure(2, "f", None, None)),
    )
    bars = waterfall(record, {})
    assert shape(bars) == [
        (f"send {record.func_name}", 0, None, 0, 0),
        ("delayed", 1, 0, 0, 5),
        (f"process {record.func_name}", 1, 0, 5, 6),
        ("backoff", 1, 1, 6, 8),
        (f"process {record.func_name}", 1, 1, 8, 9),
        ("waiting", 1, 1, 9, 10),
        ("waiting", 1, 2, 10, 11),
        (f"process {record.func_name}", 1, 2, 11, 12),
    ]
    assert [(bar.failed, bar.error) for bar in bars if bar.kind == "attempt"] == [
        (True, "OSError: gone"),
        (True, "process_died"),
        (True, "timeout"),
    ]


def test_what_lasts_has_no_end_and_a_refused_task_has_one_bar() -> None:
    running = told(TaskStatus.RUNNING, (Transition.ENQUEUED, 0, 0), (Transition.STARTED, 1, 0))
    assert shape(waterfall(running, {}))[-1] == (f"process {running.func_name}", 1, 0, 1, None)
    pending = told(TaskStatus.PENDING, (Transition.ENQUEUED, 0, 0))
    assert shape(waterfall(pending, {}))[-1] == ("waiting", 1, None, 0, None)
    rejected = told(TaskStatus.REJECTED, (Transition.REJECTED, 0, 0, "queue_full"))
    assert len(waterfall(rejected, {})) == 1


def test_kept_spans_are_a_tree_below_the_request_and_the_attempts() -> None:
    record = told(
        TaskStatus.SUCCESS,
        (Transition.ENQUEUED, 0, 0),
        (Transition.STARTED, 1, 0),
        (Transition.SUCCEEDED, 4, 0),
        trace=TaskTrace(SpanRef("t", "send", 1), SpanRef("t", "own", 1)),
    )
    around = (
        span("send", "route", 0, 0.25, kind="producer"),
        span("route", "request", -0.5, None),
        span("request", "", -1, 2, name="GET /", kind="server"),
    )
    inside = (
        span("late", "own", 3, 3.5),
        span("query", "call", 1.5, 1.75, failed=True, error="deadlock", attributes={"db.system": "sqlite"}),
        span("call", "own", 1.25, 2),
        span("orphan", "dropped", 2.5, None),
        span("one", "other", 3.75, 4),
        span("other", "one", 3.75, 3.5),
    )
    kept = {0: AttemptSpans("t", "own", around, inside)}
    bars = waterfall(record, kept)
    assert shape(bars) == [
        ("GET /", 0, None, -1, 2),
        ("route", 1, None, -0.5, None),
        (f"send {record.func_name}", 2, None, 0, 0.25),
        ("waiting", 3, 0, 0, 1),
        (f"process {record.func_name}", 3, 0, 1, 4),
        ("call", 4, 0, 1.25, 2),
        ("query", 5, 0, 1.5, 1.75),
        ("orphan", 4, 0, 2.5, None),
        ("late", 4, 0, 3, 3.5),
        # Each names the other as its parent.
        ("one", 4, 0, 3.75, 4),
        ("other", 4, 0, 3.75, 3.75),
    ]
    assert bars[4].span_id == "own"
    assert (bars[6].failed, bars[6].error, bars[6].attributes) == (True, "deadlock", {"db.system": "sqlite"})


def test_a_chain_of_many_spans_is_bounded_in_depth() -> None:
    record = told(
        TaskStatus.SUCCESS, (Transition.ENQUEUED, 0, 0), (Transition.STARTED, 1, 0), (Transition.SUCCEEDED, 2, 0)
    )
    chain = tuple(span(f"s{n}", f"s{n - 1}", 1, 2) for n in range(200))
    bars = waterfall(record, {0: AttemptSpans("t", "own", (), chain)})
    assert (len(bars), max(bar.depth for bar in bars)) == (203, 64)


def test_a_time_beyond_the_calendar_is_its_end() -> None:
    assert (moment_of(2**62).year, moment_of(-(2**62)).year, moment_of(MICROS)) == (9999, 1, BASE)
