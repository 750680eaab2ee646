"""The one place where a task's state changes: table, record, ledger, bus, in this order."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from taskflow_otel.backends.base import Outcome, Update
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.failure import Failure
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.phase import Phase, Step
from taskflow_otel.engine.span_book import SpanBook
from taskflow_otel.errors import StaleTokenError
from taskflow_otel.model.enqueue import first_reason
from taskflow_otel.model.events import lifecycle_event
from taskflow_otel.model.failure import fingerprint_of, summary_of, with_failure
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.replay import last_wait, replay
from taskflow_otel.model.status import TRANSITIONS, TaskStatus, Transition, next_status
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock

# Module-level names: until Python 3.12, the lookup of an enum member takes as long as a call.
_ENQUEUED, _STARTED, _SUCCEEDED, _RETRY_SCHEDULED = (
    Transition.ENQUEUED,
    Transition.STARTED,
    Transition.SUCCEEDED,
    Transition.RETRY_SCHEDULED,
)
_MISSED = Transition.OBJECTIVE_MISSED
_PENDING, _RUNNING = TRANSITIONS[None, _ENQUEUED], TaskStatus.RUNNING
_STALE = Outcome.STALE
_KNOWN, _LEAVE = Step.KNOWN, Step.LEAVE
_PROBLEMS = frozenset({TaskStatus.FAILED, TaskStatus.INTERRUPTED, TaskStatus.REJECTED})


class Lifecycle:
    """Applies transitions.

    The transition of a durable task is committed first and published afterwards, so that no exporter ever reports
    what the ledger does not hold. The transition of any other task is applied at once, and noted as history.
    """

    def __init__(
        self, bus: ObserverBus, ledger: Ledger, tasks: LiveTasks, clock: Clock, spans: SpanBook | None = None
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._spans = spans
        self._tasks = tasks
        self._clock = clock

    def created(self, record: TaskRecord, due_at: datetime | None) -> None:
        """Write the first line of a new record's timeline and let the exporters give it a trace context."""
        # `begin` without the call: every task comes here.
        record.status = _PENDING
        record.timeline += (TimelineEntry(_ENQUEUED, record.created_at, 0, record.instance, record.reason, due_at),)
        self._bus.created(record)

    def begin(self, record: TaskRecord, due_at: datetime | None) -> None:
        """Write the first line of a new record's timeline. `due_at`: see `TimelineEntry`."""
        record.status = _PENDING
        record.timeline += (TimelineEntry(_ENQUEUED, record.created_at, 0, record.instance, record.reason, due_at),)

    def as_enqueued(self, refused: TaskRecord) -> TaskRecord:
        """A refused record in its state before the refusal."""
        record = refused.copy()
        due_at = refused.timeline[0].due_at
        record.timeline = ()
        record.duplicate_of = record.end_time = record.error = None
        record.failures = ()
        record.reason = first_reason(record.run_at, record.created_at)
        self.begin(record, due_at)
        return record

    def announce(self, record: TaskRecord) -> None:
        """Let the exporters give a new record a trace context."""
        self._bus.created(record)

    def enqueued(self, task: LiveTask) -> None:
        """Publish a new task; a durable one must be committed."""
        task.advance(_KNOWN)
        if not task.durable:
            self._ledger.note(task)
        record = task.record
        self._bus.publish(lifecycle_event(record, _ENQUEUED, None, record.timeline[-1].timestamp))

    def left_to_others(self, record: TaskRecord) -> None:
        """Publish a new task that is committed, and that another instance will run."""
        self._bus.created(record)
        self._bus.publish(lifecycle_event(record, _ENQUEUED, None, record.timeline[-1].timestamp))
        self._bus.given(record)

    def rejected(
        self,
        task: LiveTask,
        reason: Reason,
        *,
        duplicate_of: str | None = None,
        error: str | None = None,
        history: bool = True,
    ) -> None:
        """End a task that was never accepted: its queue was full, the commit failed, or it is a duplicate."""
        task.record.error = error
        self.mark_rejected(task.record, reason, duplicate_of=duplicate_of)
        if history:
            self._ledger.note(task)
        self.publish_rejected(task)

    def note(self, task: LiveTask) -> None:
        """Write the history of a task soon."""
        self._ledger.note(task)

    def mark_rejected(self, record: TaskRecord, reason: Reason, *, duplicate_of: str | None = None) -> None:
        """Mark a record as rejected, without publishing it yet."""
        due_at = record.timeline[0].due_at if record.timeline else None
        record.timeline = ()
        record.duplicate_of = duplicate_of
        self._advance(record, Transition.REJECTED, self._clock.now(), reason=reason, before=None)
        if due_at is not None:
            record.timeline = _with_due(record.timeline, due_at)

    def publish_rejected(self, task: LiveTask) -> None:
        """Publish a rejected task."""
        record = task.record
        self._bus.publish(lifecycle_event(record, Transition.REJECTED, None, record.timeline[-1].timestamp))
        self._end(task)

    async def move(
        self,
        task: LiveTask,
        transition: Transition,
        *,
        reason: Reason | None = None,
        failure: Failure | None = None,
        run_at: datetime | None = None,
        end_time: datetime | None = None,
        duration: float | None = None,
        queue_wait: float | None = None,
        crashed: bool = False,
        timeout: float = float("inf"),
    ) -> None:
        """Apply one transition.

        Raises `IllegalTransitionError` outside the table, `StaleTokenError` if another instance has taken the task
        over or it was deleted, and `BackendUnavailableError` if the commit of a durable task took longer than
        `timeout` seconds. A transition that the ledger applied before the takeover is published.
        """
        previous = task.record.status
        # Until the commit, everyone sees the old state of a durable task.
        record = task.record.copy() if task.durable else task.record
        now = self._clock.now()
        if run_at is not None:
            record.run_at = run_at
        if crashed:
            record.crashes += 1
        self._advance(
            record,
            transition,
            now,
            previous,
            duration,
            reason=reason,
            failure=failure,
            end_time=end_time,
        )
        if task.spans is not None:
            self._keep_spans(task, record)
        mine = True
        if task.durable:
            entry = self._ledger.submit(Update(record), timeout=timeout)
            try:
                applied = await entry.future
            except BaseException:
                self._ledger.leave(entry)
                raise
            mine = applied.outcome is not _STALE
            if not mine and not (held := await self._ledger.holds(record)):
                raise StaleTokenError(record.task_id, deleted=held is None)
            record.cancel_requested = task.record.cancel_requested
            task.record = record
            if transition is _STARTED:
                # The function is entered now, not when the commit was requested.
                record.start_time = self._clock.now()
        else:
            self._ledger.note(task)
        if record.status.finished:
            self._end(task)
        exception = None if failure is None else failure.exception
        self._bus.publish(lifecycle_event(record, transition, previous, now, queue_wait, exception))
        if not mine:
            raise StaleTokenError(record.task_id)

    def started(self, task: LiveTask, queue_wait: float) -> None:
        """`move` for the start of a task that is not durable: it takes effect at once, so nothing is awaited."""
        record, now = task.record, self._clock.now()
        previous = record.status
        # By position, here and for the success: keywords cost each task more.
        self._advance(record, _STARTED, now, previous)
        self._ledger.note(task)
        self._bus.publish(lifecycle_event(record, _STARTED, previous, now, queue_wait))

    def succeeded(self, task: LiveTask, duration: float) -> None:
        """`move` for the success of a task that is not durable."""
        record, now = task.record, self._clock.now()
        previous = record.status
        self._advance(record, _SUCCEEDED, now, previous, duration)
        if task.spans is not None:
            self._keep_spans(task, record)
        self._ledger.note(task)
        self._end(task)
        self._bus.publish(lifecycle_event(record, _SUCCEEDED, previous, now))

    def function_over(self, task: LiveTask) -> None:
        """Take what exporters kept of the attempt, before its outcome is decided; `move` and `succeeded` store it."""
        if self._spans is not None:
            task.spans = self._bus.ending(task.record)

    def _keep_spans(self, task: LiveTask, record: TaskRecord) -> None:
        if self._spans is not None and task.spans is not None:
            self._spans.keep(record, task.spans)
        task.spans = None

    def miss_objective(self, task: LiveTask) -> TaskRecord:
        """Write the line that the time limit of the objective has passed; return the record to commit and to `show`.

        The line is in the record at once, so that each later write of the task includes it. No commit of the task may
        be on its way.
        """
        record, now = task.record, self._clock.now()
        record.timeline += (TimelineEntry(_MISSED, now, record.attempt, record.instance),)
        return record.copy()

    def show_missed(self, record: TaskRecord) -> None:
        """Publish the line of `miss_objective`."""
        self._bus.publish(lifecycle_event(record, _MISSED, record.status, record.timeline[-1].timestamp))

    def adopt(self, task: LiveTask, record: TaskRecord) -> None:
        """Publish a transition that the ledger applied after its caller had gone."""
        previous = task.record.status
        if task.record.timeline != record.timeline[:-1]:
            return
        task.record = record
        if record.status.finished:
            self._end(task)
        last = record.timeline[-1]
        self._bus.publish(lifecycle_event(record, last.transition, previous, last.timestamp, last_wait(record)))

    async def show_if_held(self, record: TaskRecord) -> None:
        """Publish the last transition of a record if the ledger holds it; the task continues on another instance."""
        if await self._ledger.holds(record):
            *_, last = replay(record)
            self._bus.publish(
                lifecycle_event(record, last.transition, last.previous, record.timeline[-1].timestamp, last.queue_wait)
            )
            self._bus.refused(record)

    def fenced(self, task: LiveTask, *, deleted: bool = False) -> None:
        """Forget a task whose write the ledger refused: it belongs to another instance now, or was deleted."""
        self.forget(task)
        self._bus.refused(task.record, deleted)

    def given(self, task: LiveTask) -> None:
        """Forget a task that is in the pool now."""
        self.forget(task)
        self._bus.given(task.record)

    def claimed(self, record: TaskRecord) -> None:
        """Let the exporters continue the telemetry of a task from the pool."""
        self._bus.claimed(record)

    def forget(self, task: LiveTask) -> None:
        """Forget a task that is now only in the ledger."""
        if task.phase is not Phase.GONE:
            task.advance(_LEAVE)
        if task.objective_timer is not None:
            task.objective_timer.cancel()
            task.objective_timer = None
        self._tasks.drop(task)
        _wake_waiters(task)

    def _advance(
        self,
        record: TaskRecord,
        transition: Transition,
        now: datetime,
        before: TaskStatus | None,
        duration: float | None = None,
        *,
        reason: Reason | None = None,
        failure: Failure | None = None,
        end_time: datetime | None = None,
    ) -> None:
        # `next_status` without the call, for what is in the table.
        record.status = status = TRANSITIONS.get((before, transition)) or next_status(before, transition)
        if reason is not None or record.reason is not None:
            record.reason = None if reason is None else reason.value
        if transition is _STARTED:
            trace = record.trace
            if record.start_time is not None:
                record.attempt += 1
            if record.end_time is not None or record.duration is not None or record.progress is not None:
                record.end_time = record.duration = record.progress = None
            record.start_time = now
            trace.previous = trace.attempt
            trace.attempt = SpanRef()
        elif before is _RUNNING:
            record.end_time = end_time or now
            record.duration = duration
            if transition is _RETRY_SCHEDULED:
                record.retries_used += 1
        elif status.finished:
            record.end_time = now
        if failure is not None:
            record.error, record.error_type, record.stacktrace = failure.error, failure.error_type, failure.stacktrace
            _remember_failure(record, transition, failure)
        elif transition is _SUCCEEDED:
            if record.error is not None or record.error_type is not None:
                record.error = record.error_type = record.stacktrace = None
        elif status.finished and status in _PROBLEMS:
            _remember_failure(record, transition, failure)
        record.timeline += (TimelineEntry(transition, now, record.attempt, record.instance, record.reason),)

    def _end(self, task: LiveTask) -> None:
        task.advance(_LEAVE)
        # A finished task must not keep the user's objects alive.
        task.args = task.kwargs = task.context = task.task_context = task.call = None
        if task.sealed is not None:
            task.sealed = None
        if task.objective_timer is not None:
            task.objective_timer.cancel()
            task.objective_timer = None
        # Nor must it keep the frames and context variables of its attempt until its history is written.
        task.attempt = None
        if task.timer is not None:
            task.timer = None
        self._tasks.finish(task)
        if task.waiters is not None:
            _wake_waiters(task)


def _remember_failure(record: TaskRecord, transition: Transition, failure: Failure | None) -> None:
    """Keep why this attempt failed beside those before it. Only failures pay for this."""
    error, error_type, stacktrace = None, None, None
    if failure is not None:
        error, error_type, stacktrace = failure.error, failure.error_type, failure.stacktrace
    elif record.status is TaskStatus.REJECTED:
        error = record.error
    fingerprint = None
    if record.status is not TaskStatus.CANCELLED:
        fingerprint = fingerprint_of(
            record.func_name,
            TaskStatus.INTERRUPTED if transition is Transition.RECOVERED else record.status,
            reason=record.reason,
            error_type=error_type,
            error=error,
            stacktrace=stacktrace,
        )
    latest = summary_of(
        record.attempt,
        fingerprint,
        error_type=error_type,
        error=error,
        stacktrace=stacktrace,
        retry_at=record.run_at if transition is _RETRY_SCHEDULED else None,
    )
    record.failures = with_failure(record.failures, latest)


def _with_due(timeline: tuple[TimelineEntry, ...], due_at: datetime) -> tuple[TimelineEntry, ...]:
    return replace(timeline[0], due_at=due_at), *timeline[1:]


def _wake_waiters(task: LiveTask) -> None:
    waiters, task.waiters = task.waiters, None
    for waiter in waiters or ():
        if not waiter.done():
            waiter.set_result(task.record)
