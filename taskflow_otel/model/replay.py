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
_BEGIN = frozenset({Transition.ENQUEUED, Transition.RETRY_SCHEDULED, Transition.RECOVERED})
"""With these a task waits, or waits on."""
_UNTRACED = SpanRef()


def replay(record: TaskRecord) -> Iterator[LifecycleEvent]:
    """Yield one event for each line of the record's timeline, with the instance that applied it.

    A record keeps the details of its latest attempt only. For an earlier attempt, the run time is the time between two
    lines, and the exception class is unknown. Each start has a wait for a slot, because the engine measures one for
    each: from the end of a deliberate delay on. Where that is not known any more (the first delay of a task that was
    retried since, or one of a long row of retries), the wait is 0.
    Raises `IllegalTransitionError` for a timeline that the engine cannot have written.
    """
    status: TaskStatus | None = None
    started: datetime | None = None
    retries = 0
    waits = _Waits(record)
    latest = {entry.transition in _ENDS: index for index, entry in enumerate(record.timeline)}
    for index, entry in enumerate(record.timeline):
        previous, status = status, next_status(status, entry.transition)
        wait = waits.see(entry)
        if entry.transition is Transition.STARTED:
            started = entry.timestamp
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


def last_wait(record: TaskRecord) -> float | None:
    """The wait for a slot before the last line of a record's timeline, if that is a start."""
    waits, last = _Waits(record), None
    for entry in record.timeline:
        last = waits.see(entry)
    return last


class _Waits:
    """How long a task waited for a slot before each of its starts."""

    def __init__(self, record: TaskRecord) -> None:
        self._run_at = record.run_at
        self._retries_at = {one.attempt: one.retry_at for one in record.failures if one.retry_at is not None}
        self._since: datetime | None = None
        self._delayed = False
        self._retry_at: datetime | None = None

    def see(self, entry: TimelineEntry) -> float | None:
        """Take the next line; for a start, return the seconds from ready to started."""
        if entry.transition is Transition.STARTED:
            waited = None if self._since is None else self._until(entry.timestamp, self._since)
            self._since = None
            return waited
        if entry.transition in _BEGIN:
            if self._since is None:
                self._delayed = entry.reason in DELIBERATE_WAITS
                self._retry_at = self._retries_at.get(entry.attempt)
            # A takeover does not end a delay: the task has another owner, who knows it from now on.
            self._since = entry.timestamp
        return None

    def _until(self, started: datetime, since: datetime) -> float:
        ready = since
        if self._delayed:
            # If it is later than this start, it is that of a later attempt.
            own = self._run_at is not None and self._run_at <= started
            planned = self._run_at if own else self._retry_at
            # A delay of 0 has ended before the line that announces it was written.
            ready = started if planned is None else max(since, planned)
        return max(0.0, (started - ready).total_seconds())
