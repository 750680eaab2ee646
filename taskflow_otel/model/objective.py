"""Service level objectives of task types: which share of the tasks must succeed in time, and how each is judged.

A task is judged once, by its timeline alone: everyone who reads the ledger comes to the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import exact_number, seconds
from taskflow_otel.model.plain import repr_of
from taskflow_otel.model.record import NEVER_DUE, TaskRecord, TimelineEntry
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import ObjectiveResult, Reason

_SHORTEST_WINDOW = 86_400.0
_LONGEST_WINDOW = 35 * 86_400.0
_WINDOW = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class SLO:
    """The objective of a task type, for `@task_manager.task(slo=...)`.

    `success`: the share of the tasks that must end well, between 0 and 1 (0.999 is 99.9 %). `within`: the seconds in
    which a task must succeed to count as good, from the moment when it could run: its creation, or the end of its
    `delay` or `run_at`. Retries, waits and restarts are part of it. Without `within`, any success is good. `window`:
    the time over which the share is kept, from 1 to 35 days, for which the ledger keeps the numbers.

    Raises `ConfigurationError` for a value outside its range.
    """

    success: float
    within: float | timedelta | None = None
    window: float | timedelta = _WINDOW

    def __post_init__(self) -> None:
        share = exact_number(self.success)
        if share is None or not 0 < share < 1:
            raise ConfigurationError(
                "SLO.success must be a share between 0 and 1, both excluded (0.999 = 99.9 %; 1 leaves no budget), "
                f"not {repr_of(self.success)}"
            )
        if self.within is not None:
            seconds("SLO.within", self.within, exclusive=True)
        seconds("SLO.window", self.window, minimum=_SHORTEST_WINDOW, maximum=_LONGEST_WINDOW)

    @property
    def within_seconds(self) -> float | None:
        """`within` in seconds."""
        return None if self.within is None else seconds("SLO.within", self.within)

    @property
    def window_seconds(self) -> float:
        """`window` in seconds."""
        return seconds("SLO.window", self.window)

    def due(self, ready: datetime) -> datetime:
        """When a task must have succeeded that could run from `ready` on."""
        within = self.within_seconds
        return NEVER_DUE if within is None else min(NEVER_DUE, ready + timedelta(seconds=within))


def due_of(slo: SLO | None, record: TaskRecord) -> datetime | None:
    """When a new task is due; `None` without an objective. A deliberate delay does not count."""
    if slo is None:
        return None
    delayed = record.run_at is not None and record.run_at > record.created_at
    return slo.due(record.run_at if delayed and record.run_at is not None else record.created_at)


NOT_JUDGED = frozenset({Reason.CANCELLED.value, Reason.REQUEST_FAILED.value, Reason.EARLIER_FAILED.value})
"""The reasons of a cancellation that says nothing about the service: people or the request did not want the task."""
_BAD = frozenset({Transition.FAILED, Transition.INTERRUPTED, Transition.OBJECTIVE_MISSED})
_SUCCEEDED, _CANCELLED, _MISSED = Transition.SUCCEEDED, Transition.CANCELLED, Transition.OBJECTIVE_MISSED


def missed(timeline: Sequence[TimelineEntry]) -> bool:
    """Whether the time limit passed before the end of the task."""
    return any(entry.transition is _MISSED for entry in timeline)


def verdict(timeline: Sequence[TimelineEntry]) -> ObjectiveResult | None:
    """What a whole timeline has decided."""
    return next((result for place in range(len(timeline)) if (result := result_of(timeline, place))), None)


def result_of(timeline: Sequence[TimelineEntry], place: int) -> ObjectiveResult | None:
    """What a line of a timeline decides about the objective of its task; `None` if it decides nothing.

    At most one line of a timeline decides: the end of the task, or before it the line that its time limit has passed.
    A success after the time limit is bad even if no process was there to write that line.
    """
    due = timeline[0].due_at
    if due is None:
        return None
    line = timeline[place]
    transition = line.transition
    if transition is _SUCCEEDED:
        result = ObjectiveResult.GOOD if line.timestamp <= due else ObjectiveResult.BAD
    elif transition in _BAD or (transition is _CANCELLED and line.reason not in NOT_JUDGED):
        result = ObjectiveResult.BAD
    else:
        return None
    return None if missed(timeline[:place]) else result
