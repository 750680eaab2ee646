"""The good and bad events of objectives, as one process counts them."""

from __future__ import annotations

from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.values import LabelValues, Snapshot, Value
from taskflow_otel.model.vocabulary import ObjectiveResult

RESULTS = tuple(result.value for result in ObjectiveResult)


class ObjectiveCounts:
    """Counts by task type and result; a type with an objective has both counts from its declaration on."""

    def __init__(self) -> None:
        self._counts: dict[LabelValues, int] = {}

    def declare(self, task: str) -> None:
        """Start both counts of a task type at zero."""
        for result in RESULTS:
            self._counts.setdefault((task, result), 0)

    def count(self, task: str, result: str) -> None:
        """Count one event."""
        self.declare(task)
        self._counts[task, result] += 1

    def forget(self) -> None:
        """Start at zero again."""
        self._counts = dict.fromkeys(self._counts, 0)

    def read(self, found: Snapshot) -> None:
        """Add the counts to a snapshot."""
        found[signals.SLO_EVENTS.name] = dict[LabelValues, Value](self._counts)
