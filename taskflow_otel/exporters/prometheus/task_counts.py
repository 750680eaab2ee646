"""What transitions count, by task type and queue: the part of the metrics that each task changes."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from datetime import datetime

from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.objectives import ObjectiveCounts
from taskflow_otel.exporters.prometheus.values import SAMPLED, Histogram, LabelValues, Snapshot, Value, add_to
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import (
    OUTCOMES,
    PROCESS_DEATHS,
    REFUSALS,
    AttemptOutcome,
    Reason,
    RecoveryOutcome,
    Source,
)
from taskflow_otel.runtime.throttled_report import ThrottledReport

OTHER = "_other"
"""The label value for everything beyond the cap."""

# Plain text, as labels are. Module-level names: the lookup of an enum member would be a call for each event.
SOURCES = tuple(source.value for source in Source)
ATTEMPT_OUTCOMES = tuple(outcome.value for outcome in AttemptOutcome)
_SUCCESS, _FAILED = AttemptOutcome.SUCCESS.value, AttemptOutcome.FAILED.value
_INTERRUPTED = AttemptOutcome.INTERRUPTED.value
_REFUSED = TaskStatus.REJECTED.value
FINISH_OUTCOMES = (*ATTEMPT_OUTCOMES, _REFUSED)
REFUSAL_REASONS = tuple(reason.value for reason in REFUSALS)
RECOVERY_OUTCOMES = tuple(outcome.value for outcome in RecoveryOutcome)
_WAITING, _RERUN = RecoveryOutcome.WAITING.value, RecoveryOutcome.RERUN.value
_ENDED, _POISON = RecoveryOutcome.INTERRUPTED.value, RecoveryOutcome.POISON.value
_MOST_PENDING = 256
"""Events that may wait to be counted: less than a millisecond of work."""
_NO_QUEUE = "\0"
_ATTEMPT_OUTCOME = {transition: outcome.value for transition, outcome in OUTCOMES.items()}
_ENQUEUED, _STARTED, _SUCCEEDED = Transition.ENQUEUED, Transition.STARTED, Transition.SUCCEEDED
_REJECTED, _OBJECTIVE_MISSED = Transition.REJECTED, Transition.OBJECTIVE_MISSED
_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING


class _Cell:
    """The counts of one task type in one queue."""

    __slots__ = (
        "attempts",
        "end_to_end",
        "enqueued",
        "finished",
        "last_success",
        "queue_wait",
        "retries",
        "run_duration",
        "running",
    )

    def __init__(self, buckets: Mapping[str, tuple[float, ...]]) -> None:
        self.enqueued = dict.fromkeys(SOURCES, 0)
        self.attempts = dict.fromkeys(ATTEMPT_OUTCOMES, 0)
        self.finished = dict.fromkeys(FINISH_OUTCOMES, 0)
        self.retries = 0
        self.running = 0
        self.last_success: datetime | None = None
        self.run_duration = Histogram(buckets[signals.RUN_DURATION.name])
        self.queue_wait = Histogram(buckets[signals.QUEUE_WAIT_TIME.name])
        self.end_to_end = Histogram(buckets[signals.END_TO_END.name])


class TaskCounts:
    """Counts events. `cap`: how many values a label may have; further ones count as `_other`.

    `take` only collects an event. The events are counted in one loop when something is read, or when they are many:
    that takes half the time of each one by itself. `take`, `refuse` and `register` are called on the event loop's
    thread, everything else on any thread.
    """

    def __init__(self, buckets: Mapping[str, tuple[float, ...]], cap: int) -> None:
        self._buckets = buckets
        self._cap = cap
        self._cells: dict[LabelValues, _Cell] = {}
        self._tasks: set[str] = set()
        self._queues: set[str] = set()
        self._error_types: set[str] = set()
        self._running: dict[str, _Cell] = {}
        self._pending: deque[LifecycleEvent] = deque()
        """Events that are not counted yet."""
        self._counting = threading.Lock()
        self._exceptions: dict[LabelValues, int] = {}
        self._recovered = dict.fromkeys(RECOVERY_OUTCOMES, 0)
        self._refused = dict.fromkeys(REFUSAL_REASONS, 0)
        self._objectives = ObjectiveCounts()
        self._fenced = 0
        self._overflow = {"task": 0, "queue": 0, "error_type": 0}
        self._failures = ThrottledReport()

    def forget(self) -> None:
        """Start at zero again, in a forked child: another thread of the parent may have been counting."""
        self._counting = threading.Lock()
        self._pending.clear()
        self._cells = {key: _Cell(self._buckets) for key in self._cells}
        self._running.clear()
        self._exceptions.clear()
        self._recovered = dict.fromkeys(RECOVERY_OUTCOMES, 0)
        self._refused = dict.fromkeys(REFUSAL_REASONS, 0)
        self._objectives.forget()
        self._fenced = 0
        self._overflow = dict.fromkeys(self._overflow, 0)

    def register(self, name: str, queue: str, *, objective: bool) -> None:
        """Create the children of a task type, so that they are shown as zero before anything happens."""
        self.settle()
        key = (name, queue)
        if key not in self._cells:
            self._admit(key, count=False)
        if objective:
            self._objectives.declare(self.task_label(name))

    def task_label(self, name: str) -> str:
        """The label value of a task name: itself, or `_other` beyond the cap."""
        if name not in self._tasks:
            self.settle()
        return name if name in self._tasks else OTHER

    def error_label(self, error_type: str) -> str:
        """The label value of an exception's class: itself, or `_other` beyond the cap."""
        if error_type not in self._error_types:
            self.settle()
        return error_type if error_type in self._error_types else OTHER

    def take(self, event: LifecycleEvent) -> None:
        """Count a transition: at the latest when something is read."""
        pending = self._pending
        pending.append(event)
        # The traceback of an exception would keep the frames of its task alive.
        if len(pending) >= _MOST_PENDING or event.exception is not None:
            self.settle(wait=False)

    def refuse(self, task_id: str) -> None:
        """Count a refused write; the attempt no longer counts as running here."""
        self.settle()
        self._fenced += 1
        self._leave(task_id)

    def settle(self, *, wait: bool = True) -> None:
        """Count all events so far. Without `wait`, leave that to the thread that counts at this moment."""
        pending = self._pending
        # Without events too, if it waits: another thread may be about to count the last one that it has taken.
        if not (pending or wait) or not self._counting.acquire(blocking=wait):
            return
        try:
            while pending:
                try:
                    self._count(pending)
                except Exception as exc:
                    # The event that cannot be counted is dropped, and no other.
                    self._failures.add("prometheus", "could not count a transition", exc)
        finally:
            self._counting.release()

    def _count(self, pending: deque[LifecycleEvent]) -> None:
        cells, running = self._cells, self._running
        name = queue = ""
        cell: _Cell | None = None
        while pending:
            event = pending.popleft()
            # Most events in a row are of one type.
            if event.func_name != name or event.queue != queue or cell is None:
                name, queue = event.func_name, event.queue
                cell = cells.get((name, queue))
                if cell is None:
                    cell = self._admit((name, queue))
                    if (name, queue) not in cells:
                        # Each event of a type beyond the cap is counted as such.
                        queue = _NO_QUEUE
            transition = event.transition
            if event.objective is not None:
                self._objectives.count(self._shown(event.func_name), event.objective)
            # A chain, the most frequent first: this runs for every event, and a `match` compares by `==`.
            if transition is _STARTED:
                running[event.task_id] = cell
                cell.running += 1
                if (wait := event.queue_wait) is not None:
                    # `observe_in` without the call, here and for the end of an attempt.
                    histogram = cell.queue_wait
                    histogram.counts[index := bisect_left(histogram.bounds, wait)] += 1
                    histogram.sum += wait
                    if event.span.trace_flags & SAMPLED:
                        histogram.keep(index, wait, event.span, event.timestamp)
            elif transition is _ENQUEUED:
                cell.enqueued[event.source] += 1
            elif transition is _SUCCEEDED:
                self._count_success(cell, event)
            elif transition is _REJECTED:
                cell.finished[_REFUSED] += 1
                reason = str(event.reason)
                self._refused[reason] = self._refused.get(reason, 0) + 1
            elif transition is _OBJECTIVE_MISSED:
                pass
            elif event.previous is _RUNNING:
                self._count_attempt(cell, event)
            else:
                self._count_waiting(cell, event)

    def _count_success(self, cell: _Cell, event: LifecycleEvent) -> None:
        if (here := self._running.pop(event.task_id, None)) is not None:
            here.running -= 1
        cell.last_success = ended = event.end_time or event.timestamp
        cell.attempts[_SUCCESS] += 1
        cell.finished[_SUCCESS] += 1
        span = event.span
        if (duration := _duration(event) if event.duration is None else event.duration) is not None:
            if duration < 0.0:
                duration = 0.0
            histogram = cell.run_duration
            histogram.counts[index := bisect_left(histogram.bounds, duration)] += 1
            histogram.sum += duration
            if span.trace_flags & SAMPLED:
                histogram.keep(index, duration, span, event.timestamp)
        elapsed = (ended - event.created_at).total_seconds()
        if elapsed < 0.0:
            elapsed = 0.0
        histogram = cell.end_to_end
        histogram.counts[index := bisect_left(histogram.bounds, elapsed)] += 1
        histogram.sum += elapsed
        if span.trace_flags & SAMPLED:
            histogram.keep(index, elapsed, span, event.timestamp)

    def _count_attempt(self, cell: _Cell, event: LifecycleEvent) -> None:
        """Count the end of an attempt that did not succeed, and of the task unless it waits again."""
        self._leave(event.task_id)
        transition = event.transition
        outcome = _ATTEMPT_OUTCOME[transition]
        cell.attempts[outcome] += 1
        if (duration := _duration(event)) is not None:
            cell.run_duration.observe_in(max(duration, 0.0), event.span, event.timestamp)
        if event.status is not _PENDING:
            cell.finished[outcome] += 1
            elapsed = ((event.end_time or event.timestamp) - event.created_at).total_seconds()
            cell.end_to_end.observe_in(max(elapsed, 0.0), event.span, event.timestamp)
        if outcome == _FAILED:
            self._count_exception(event)
            if transition is Transition.RETRY_SCHEDULED:
                cell.retries += 1
            elif event.reason == Reason.POISON:
                self._recovered[_POISON] += 1
        elif outcome == _INTERRUPTED and event.reason in PROCESS_DEATHS:
            self._recovered[_RERUN if event.status is _PENDING else _ENDED] += 1

    def _count_waiting(self, cell: _Cell, event: LifecycleEvent) -> None:
        """Count the end or the takeover of a task that was not running."""
        if event.transition is Transition.RECOVERED:
            self._recovered[_WAITING] += 1
        else:
            cell.finished[_ATTEMPT_OUTCOME[event.transition]] += 1

    def _leave(self, task_id: str) -> None:
        """An attempt no longer runs; one of another process was never counted as running here."""
        cell = self._running.pop(task_id, None)
        if cell is not None:
            cell.running -= 1

    def _count_exception(self, event: LifecycleEvent) -> None:
        if event.error_type is None:
            return
        task = self._shown(event.func_name)
        error_type = self._capped("error_type", event.error_type, self._error_types)
        key = (task, error_type)
        if key not in self._exceptions and len(self._exceptions) >= 5 * self._cap:
            # Both labels are bounded, but their combinations could still be too many.
            self._overflow["error_type"] += 1
            key = (task, OTHER)
        self._exceptions[key] = self._exceptions.get(key, 0) + 1

    def _capped(self, label: str, value: str, seen: set[str], *, count: bool = True) -> str:
        if value in seen:
            return value
        if len(seen) >= self._cap:
            if count:
                self._overflow[label] += 1
            return OTHER
        seen.add(value)
        return value

    def _admit(self, key: LabelValues, *, count: bool = True) -> _Cell:
        task = self._capped("task", key[0], self._tasks, count=count)
        queue = self._capped("queue", key[1], self._queues, count=count)
        if (task, queue) not in self._cells and len(self._cells) >= 5 * self._cap:
            task = OTHER
            if count:
                self._overflow["task"] += 1
        cell = self._cells.get((task, queue))
        if cell is None:
            cell = self._cells[task, queue] = _Cell(self._buckets)
        return cell

    def _shown(self, name: str) -> str:
        return name if name in self._tasks else OTHER

    def read(self, found: Snapshot) -> None:
        """Add all counts to a snapshot."""
        self.settle()
        found[signals.TASK_EXCEPTIONS.name] = dict[LabelValues, Value](self._exceptions)
        found[signals.TASKS_RECOVERED.name] = {(reason,): n for reason, n in self._recovered.items()}
        found[signals.TASKS_REFUSED.name] = {(reason,): n for reason, n in list(self._refused.items())}
        found[signals.FENCED_WRITES.name] = {(): float(self._fenced)}
        found[signals.LABEL_OVERFLOW.name] = {(label,): n for label, n in self._overflow.items()}
        self._objectives.read(found)
        self._read_cells(found)

    def _read_cells(self, found: Snapshot) -> None:
        for spec in (
            signals.TASKS_ENQUEUED,
            signals.TASK_ATTEMPTS,
            signals.TASKS_FINISHED,
            signals.TASK_RETRIES,
            signals.TASKS_RUNNING,
            signals.LAST_SUCCESS,
            signals.RUN_DURATION,
            signals.QUEUE_WAIT_TIME,
            signals.END_TO_END,
        ):
            found[spec.name] = {}
        last_success = found[signals.LAST_SUCCESS.name]
        for key, cell in list(self._cells.items()):
            for spec, numbers in (
                (signals.TASKS_ENQUEUED, cell.enqueued),
                (signals.TASK_ATTEMPTS, cell.attempts),
                (signals.TASKS_FINISHED, cell.finished),
            ):
                found[spec.name].update(((*key, label), number) for label, number in list(numbers.items()))
            found[signals.TASK_RETRIES.name][key] = cell.retries
            found[signals.TASKS_RUNNING.name][key] = cell.running
            found[signals.QUEUE_WAIT_TIME.name][key] = cell.queue_wait.copy()
            add_to(found[signals.RUN_DURATION.name], key[:1], cell.run_duration)
            add_to(found[signals.END_TO_END.name], key[:1], cell.end_to_end)
            latest = last_success.get(key[:1], 0.0)
            if cell.last_success is not None and not isinstance(latest, Histogram):
                last_success[key[:1]] = max(latest, cell.last_success.timestamp())


def _duration(event: LifecycleEvent) -> float | None:
    """How long the attempt ran, if that is known."""
    if event.duration is None and event.start_time is not None and event.end_time is not None:
        return (event.end_time - event.start_time).total_seconds()
    return event.duration
