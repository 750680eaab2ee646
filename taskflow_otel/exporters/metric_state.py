"""Metric values as plain data: cheap to move in the hot path, and mergeable across processes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskflow_otel.exporters.signals import METRICS_BY_NAME, MetricSpec
from taskflow_otel.model.trace import SpanRef

LabelValues = tuple[str, ...]
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation and the sampled span in which it was made; `timestamp` is Unix time."""

    trace_id: str
    span_id: str
    value: float
    timestamp: float


class Histogram:
    """Counts per bucket, the last one unbounded, with the latest exemplar of each."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: list[Exemplar | None] = [None] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_in(self, value: float, span: SpanRef, moment: datetime) -> None:
        """Count one observation, and keep it as an exemplar when its span is sampled."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.sum += value
        if span.trace_flags & _SAMPLED and span.trace_id:
            self.exemplars[index] = Exemplar(span.trace_id, span.span_id, value, moment.timestamp())

    def copy(self) -> Histogram:
        """A snapshot."""
        twin = Histogram(self.bounds)
        twin.counts = list(self.counts)
        twin.sum = self.sum
        twin.exemplars = list(self.exemplars)
        return twin

    def add(self, other: Histogram) -> None:
        """Add the observations of another process. A bucket that is unknown here goes into the next larger one."""
        for bound, count in zip((*other.bounds, float("inf")), other.counts, strict=True):
            self.counts[bisect_left(self.bounds, bound)] += count
        self.sum += other.sum


Value = float | Histogram
Snapshot = dict[str, dict[LabelValues, Value]]
"""Metric name → label values → value."""


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The values of several processes as one; exemplars are those of the first snapshot."""
    merged: Snapshot = {}
    for position, snapshot in enumerate(snapshots):
        for name, children in snapshot.items():
            spec = METRICS_BY_NAME.get(name)
            if spec is None:
                continue
            target = merged.setdefault(name, {})
            for labels, value in children.items():
                present = target.get(labels)
                if isinstance(value, Histogram):
                    if not isinstance(present, Histogram):
                        present = target[labels] = Histogram(value.bounds if position == 0 else _bounds(target, value))
                        if position == 0:
                            present.exemplars = list(value.exemplars)
                    present.add(value)
                elif not isinstance(present, Histogram):
                    target[labels] = value if present is None else _combine(spec, present, value)
    return merged


def _bounds(children: Mapping[LabelValues, Value], value: Histogram) -> tuple[float, ...]:
    """One family has one set of buckets: that of this process where it has any child."""
    for child in children.values():
        if isinstance(child, Histogram):
            return child.bounds
    return value.bounds


def _combine(spec: MetricSpec, one: float, other: float) -> float:
    return max(one, other) if spec.merge == "max" else one + other


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON data, to be stored where other processes find it. Exemplars stay with their process."""
    return {
        name: [
            [
                list(labels),
                {"bounds": list(value.bounds), "counts": value.counts, "sum": value.sum}
                if isinstance(value, Histogram)
                else value,
            ]
            for labels, value in children.items()
        ]
        for name, children in snapshot.items()
    }


def from_json(data: Mapping[str, Any]) -> Snapshot:
    """Read a snapshot written by `to_json`; raises `ValueError` for anything else."""
    snapshot: Snapshot = {}
    try:
        for name, children in data.items():
            target = snapshot.setdefault(name, {})
            for labels, value in children:
                target[tuple(labels)] = _histogram(value) if isinstance(value, dict) else float(value)
    except (TypeError, KeyError, ValueError) as exc:
        raise ValueError(f"not a metrics snapshot: {exc}") from exc
    return snapshot


def _histogram(data: Mapping[str, Any]) -> Histogram:
    histogram = Histogram(tuple(data["bounds"]))
    if len(data["counts"]) != len(histogram.counts):
        raise ValueError("a histogram with a wrong number of buckets")
    histogram.counts = [int(count) for count in data["counts"]]
    histogram.sum = float(data["sum"])
    return histogram
