"""The output of running tasks: log entries and progress, from any thread to the bus and the ledger."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from opentelemetry import trace

from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.context import TaskContext
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.model.events import LogEvent
from taskflow_otel.model.plain import plain_extra, text_of
from taskflow_otel.model.record import MAX_LOG_ENTRIES, MAX_LOG_TEXT, LogEntry, Progress
from taskflow_otel.runtime.clock import Clock

_SEQUENCES_PER_ATTEMPT = 100_000


class TaskOutput:
    """Gives each attempt its `TaskContext`, and passes its output to the event loop in order."""

    def __init__(
        self,
        bus: ObserverBus,
        ledger: Ledger,
        tasks: LiveTasks,
        clock: Clock,
        life: Life,
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._tasks = tasks
        self._clock = clock
        self._life = life
        # Bound once, and not for each attempt.
        self._on_log, self._on_progress = self._log, self._progress

    def context_of(self, task: LiveTask) -> TaskContext:
        """The context of the attempt that is about to run."""
        record = task.record
        return TaskContext(
            record.task_id, record.func_name, record.attempt, {**record.tags}, self._on_log, self._on_progress
        )

    def remark(self, task: LiveTask, message: str, level: str, extra: dict[str, Any]) -> None:
        """Write an entry into the log of a running task that its function has not written.

        On the event loop only.
        """
        record = task.record
        text = text_of(message)
        plain, size = plain_extra(extra)
        event = LogEvent(
            task_id=record.task_id,
            func_name=record.func_name,
            message=text,
            level=level,
            timestamp=self._clock.now(),
            attempt=record.attempt,
            tags=dict(record.tags),
            extra=plain,
            trace_id=record.trace_id,
            span_id=record.span_id,
        )
        # The task may have ended since. Its log takes the entry nevertheless.
        self._store(task, event, len(text) + size)

    def _log(
        self, context: TaskContext, message: str, level: str, extra: dict[str, Any], size: int, exported: bool
    ) -> None:
        span = trace.get_current_span().get_span_context()
        event = LogEvent(
            task_id=context.task_id,
            func_name=context.func_name,
            message=message,
            level=level,
            timestamp=self._clock.now(),
            attempt=context.attempt,
            tags=context.tags,
            extra=extra,
            trace_id=f"{span.trace_id:032x}" if span.is_valid else None,
            span_id=f"{span.span_id:016x}" if span.is_valid else None,
            trace_flags=span.trace_flags,
            exported=exported,
        )
        self._life.call_on_loop(self._take_log, event, size)

    def _take_log(self, event: LogEvent, size: int) -> None:
        task = self._tasks.live(event.task_id)
        if task is None:
            # A thread that outlived its task wrote it: it is published, but no longer stored.
            self._bus.log(event)
            return
        self._store(task, event, size)

    def _store(self, task: LiveTask, event: LogEvent, size: int) -> None:
        count = task.log_count
        task.log_count += 1
        # After a takeover the task has a later attempt, so no sequence number is used twice.
        sequence = event.attempt * _SEQUENCES_PER_ATTEMPT + count
        event = replace(event, seq=sequence, queue=task.record.queue)
        self._bus.log(event)
        task.log_size += size
        if count >= MAX_LOG_ENTRIES or task.log_size > MAX_LOG_TEXT:
            task.record.logs_dropped += 1
            return
        self._ledger.append_log(
            event.task_id,
            LogEntry(sequence, event.timestamp, event.level, event.message, event.attempt, dict(event.extra)),
        )

    def _progress(self, context: TaskContext, progress: Progress) -> None:
        self._life.call_on_loop(self._take_progress, context, progress)

    def _take_progress(self, context: TaskContext, progress: Progress) -> None:
        task = self._tasks.live(context.task_id)
        if task is None or task.task_context is not context:
            return
        task.record.progress = progress
        self._ledger.note(task)
        self._bus.progress(task.record)
