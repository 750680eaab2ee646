"""One task's life told to exporters by hand, in the order in which the engine tells it."""

from __future__ import annotations

import contextvars
import itertools
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from msgspec.structs import replace

from taskflow_otel.bus import ObserverBus
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition, next_status
from taskflow_otel.model.trace import SpanRef

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T = TypeVar("T")
_ids = itertools.count(1)


class Story:
    """A task whose transitions are published on `bus`. `moment` moves on by one second with each of them."""

    def __init__(self, bus: ObserverBus, func_name: str = "send_email", **fields: Any) -> None:
        self.bus = bus
        self.moment = START
        self.record = TaskRecord(
            task_id=str(uuid.UUID(int=next(_ids))),
            func_name=func_name,
            status=TaskStatus.PENDING,
            created_at=START,
            instance="here",
            **fields,
        )
        self.status: TaskStatus | None = None
        self.context = contextvars.copy_context()
        self.seq = 0

    def created(self) -> Story:
        self.bus.created(self.record)
        return self

    def tell(self, transition: Transition, **fields: Any) -> LifecycleEvent:
        """Apply and publish one transition."""
        record = self.record
        previous = self.status
        status = next_status(previous, transition)
        self.moment += timedelta(seconds=1)
        if previous is TaskStatus.RUNNING:
            record.end_time = self.moment
            record.duration = 1.0
        if transition is Transition.STARTED:
            record.start_time, record.end_time, record.duration = self.moment, None, None
            record.trace.previous = record.trace.attempt
            record.trace.attempt = SpanRef()
        self.status = record.status = status
        event = LifecycleEvent(
            task_id=record.task_id,
            func_name=record.func_name,
            transition=transition,
            previous=previous,
            status=status,
            timestamp=self.moment,
            attempt=record.attempt,
            retries_used=record.retries_used,
            created_at=record.created_at,
            start_time=record.start_time,
            end_time=record.end_time,
            duration=record.duration,
            queue_wait=0.25 if record.start_time is not None else None,
            run_at=record.run_at,
            error=None,
            error_type=None,
            stacktrace=None,
            reason=None,
            tags=record.tags,
            queue=record.queue,
            executor=record.executor,
            priority=record.priority,
            source=record.source,
            instance=record.instance,
            trace=record.trace,
            span=record.trace.attempt or record.trace.creation,
        )
        event = replace(event, **fields)
        if transition is Transition.STARTED:
            self.context.run(self.bus.publish, event)
        else:
            self.bus.publish(event)
        if transition is Transition.RETRY_SCHEDULED:
            record.attempt += 1
            record.retries_used += 1
        return event

    def inside(self, function: Callable[[], T]) -> T:
        """Run something where the task's function runs."""
        return self.context.run(function)

    def enqueued(self) -> Story:
        self.tell(Transition.ENQUEUED)
        return self

    def started(self, **fields: Any) -> Story:
        self.context = contextvars.copy_context()
        self.tell(Transition.STARTED, **fields)
        return self

    def succeeded(self) -> Story:
        self.tell(Transition.SUCCEEDED)
        return self

    def failed(self, **fields: Any) -> Story:
        self.tell(Transition.FAILED, **(failure() | fields))
        return self

    def retried(self, **fields: Any) -> Story:
        self.tell(Transition.RETRY_SCHEDULED, **(failure() | {"reason": "retry_wait"} | fields))
        return self

    def log(self, message: str, level: str = "info", **extra: Any) -> LogEvent:
        """Publish one log entry of the running attempt."""
        span = self.record.trace.attempt or SpanRef()
        event = LogEvent(
            task_id=self.record.task_id,
            func_name=self.record.func_name,
            message=message,
            level=level,
            timestamp=self.moment,
            attempt=self.record.attempt,
            tags=self.record.tags,
            extra=extra,
            queue=self.record.queue,
            trace_id=span.trace_id or None,
            span_id=span.span_id or None,
            trace_flags=span.trace_flags,
            seq=self.seq,
        )
        self.seq += 1
        self.bus.log(event)
        return event

    def taken_over(self, bus: ObserverBus, instance: str = "there") -> Story:
        """The same task as another process finds it in the ledger."""
        other = Story(bus)
        other.record = replace(self.record, instance=instance)
        other.status = self.status
        other.moment = self.moment
        return other


def failure() -> dict[str, Any]:
    """The fields that an exception leaves in an event."""
    return {
        "error": "no route to host",
        "error_type": "ConnectionError",
        "stacktrace": "Traceback …\nConnectionError: no route to host",
        "exception": ConnectionError("no route to host"),
    }
