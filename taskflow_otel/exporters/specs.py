"""What the table of signals says of a span, of a log event and of a metric."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from taskflow_otel.model.status import Transition


@dataclass(frozen=True, slots=True)
class SpanSpec:
    """One kind of span."""

    operation: str
    kind: str
    at_start: tuple[str, ...]
    at_end: tuple[str, ...]
    starts: str
    ended_by: frozenset[Transition]

    def name(self, task: str) -> str:
        """The span's name for a task type."""
        return f"{self.operation} {task}"


@dataclass(frozen=True, slots=True)
class LogSpec:
    """One log event; `severity` is a severity text of the OpenTelemetry log data model."""

    event_name: str
    severity: str
    meaning: str
    transition: Transition | None
    exception: bool = False


class MetricType(StrEnum):
    """The metric types of the exposition formats."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric family. `name`: the name of its samples; for a histogram, without suffixes such as `_bucket`."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    on: frozenset[Transition] = frozenset()
    """The transitions that change it; empty if it is measured elsewhere."""
    merge: Literal["sum", "max", "min"] = "sum"
    """How the values of several processes behind one port are combined."""
