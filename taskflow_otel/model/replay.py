"""The events of a task, computed again from its record, in order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.objective import result_of
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition, next_status
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.model.vocabulary import DELIBERATE_WAITS

_ENDS = frozenset({Transition.FAILED, Transition.RETRY_SCHEDULED})
_UNTRACED = SpanRef()


def replay(record: TaskRecord) -> Iterator[LifecycleEvent]:
    """Yield one event for each line of the record's timeline, with the instance that applied it.

    A record keeps the details of its latest attempt only. For an earlier attempt, the run time is the time between two
    lines, the exception class is unknown, and the wait for a slot is known only if there was no deliberate delay.
    Raises `IllegalTransitionError` for a timeline that the engine cannot have written.
    """
    status: TaskStatus | None = None
    started: datetime | None = None
    retries = 0
    before: TimelineEntry | None = None
    latest = {entry.transition in _ENDS: index for index, entry in enumerate(record.timeline)}
    for index, entry in enumerate(record.timeline):
        previous, status = status, next_status(status, entry.transition)
        wait = None
        if entry.transition is Transition.STARTED:
            started = entry.timestamp
            wait = None if before is None else _wait(record, before, entry)
        retries += entry.transition is Transition.RETRY_SCHEDULED
        last = index == len(record.timeline) - 1
        ends_attempt = previous is TaskStatus.RUNNING and status is not TaskStatus.RUNNING
        ended = entry.timestamp if ends_attempt or status.finished else None
        known_error = record.error_type if index == latest.get(True) else None
        yield LifecycleEvent(
            task_id=record.task_id,
            func_name=record.func_name,
            transition=entry.transition,
            previous=previous,
            status=status,
            timestamp=entry.timestamp,
            attempt=entry.attempt,
            retries_used=retries,
            created_at=record.created_at,
            start_time=started,
            end_time=record.end_time if last and ended is not None else ended,
            duration=record.duration if last and ends_attempt else None,
            queue_wait=wait,
            run_at=record.run_at,
            error=record.error if known_error is not None else None,
            error_type=known_error,
            stacktrace=None,
            reason=entry.reason,
            tags=record.tags,
            queue=record.queue,
            executor=record.executor,
            priority=record.priority,
            source=record.source,
            instance=entry.instance,
            trace=record.trace,
            span=_UNTRACED,
            objective=result_of(record.timeline, index),
        )
        if entry.transition is not Transition.OBJECTIVE_MISSED:
            # A time limit that passes is no end of a wait.
            before = entry


def _wait(record: TaskRecord, before: TimelineEntry, entry: TimelineEntry) -> float | None:
    """Seconds from ready to started, if the record contains them."""
    ready = before.timestamp
    if before.reason in DELIBERATE_WAITS:
        if record.run_at is None or not before.timestamp <= record.run_at <= entry.timestamp:
            return None
        ready = record.run_at
    return max(0.0, (entry.timestamp - ready).total_seconds())
