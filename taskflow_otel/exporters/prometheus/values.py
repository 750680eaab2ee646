"""Metric values as plain data: cheap to update, and mergeable across processes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, assert_never

from msgspec import Struct

from taskflow_otel.exporters.signals import LAST_SUCCESS, METRICS_BY_NAME, SCHEDULE_LAST_FIRE
from taskflow_otel.exporters.specs import MetricSpec, MetricType
from taskflow_otel.model.trace import SpanRef

LabelValues = tuple[str, ...]
SAMPLED = 0x01
"""The bit of the trace flags that says that a span is recorded."""
_DIGITS = 6


class Exemplar(Struct, frozen=True, gc=False):
    """One observation, and the sampled span in which it was made."""

    trace_id: str
    span_id: str
    value: float
    moment: datetime

    @property
    def timestamp(self) -> float:
        """Its Unix time: computed for those that are read, and not for the many that make room for later ones."""
        return self.moment.timestamp()


class Histogram:
    """Counts per bucket (the last one is unbounded), with the latest exemplar of each."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0.0
        self.exemplars: list[Exemplar | None] = [None] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_in(self, value: float, span: SpanRef, moment: datetime) -> None:
        """Count one observation, and keep it as an exemplar if its span is sampled."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.sum += value
        if span.trace_flags & SAMPLED:
            self.keep(index, value, span, moment)

    def keep(self, index: int, value: float, span: SpanRef, moment: datetime) -> None:
        """Keep an observation in a sampled span as the exemplar of its bucket."""
        if span.trace_id:
            latest = self.exemplars[index]
            # Prometheus drops an exemplar if its bucket has had a later one.
            if latest is None or moment >= latest.moment:
                self.exemplars[index] = Exemplar(span.trace_id, span.span_id, value, moment)

    def __eq__(self, other: object) -> bool:
        """Whether the same was observed; exemplars do not count."""
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self.sum, self.counts, self.bounds) == (other.sum, other.counts, other.bounds)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # it changes

    def copy(self) -> Histogram:
        """A snapshot."""
        twin = Histogram(self.bounds)
        twin.counts = list(self.counts)
        twin.sum = self.sum
        twin.exemplars = list(self.exemplars)
        return twin

    def add(self, other: Histogram) -> None:
        """Add the observations of another process. An unknown bucket goes into the next larger one."""
        for bound, count in zip((*other.bounds, float("inf")), other.counts, strict=True):
            self.counts[bisect_left(self.bounds, bound)] += count
        # Rounded to microseconds, a sum does not depend on the order of its parts, and cannot decrease by rounding.
        self.sum = round(self.sum + other.sum, _DIGITS)


def add_to(children: dict[LabelValues, Value], labels: LabelValues, histogram: Histogram) -> None:
    """Add a histogram of this process to the child with these labels, with the latest exemplars of both."""
    present = children.get(labels)
    if not isinstance(present, Histogram):
        children[labels] = histogram.copy()
        return
    present.add(histogram)
    for index, exemplar in enumerate(histogram.exemplars):
        latest = present.exemplars[index]
        if exemplar is not None and (latest is None or exemplar.moment >= latest.moment):
            present.exemplars[index] = exemplar


Value = float | Histogram
_LASTING_TYPES = frozenset({MetricType.COUNTER, MetricType.HISTOGRAM})
_MOMENTS = frozenset({LAST_SUCCESS.name, SCHEDULE_LAST_FIRE.name})
_FREE_LABELS = frozenset({"task", "queue", "error_type", "schedule", "exporter"})
Snapshot = dict[str, dict[LabelValues, Value]]
"""Metric name → label values → value."""


class Elsewhere(NamedTuple):
    """Counts of processes that no scraped target shows: they have the label `elsewhere` with this value."""

    label: str
    parts: tuple[Snapshot, ...]


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The combined values of several processes; exemplars are those of the first snapshot."""
    merged: Snapshot = {}
    for position, snapshot in enumerate(snapshots):
        for name, children in snapshot.items():
            spec = METRICS_BY_NAME.get(name)
            if spec is None:
                continue
            target = merged.setdefault(name, {})
            for labels, value in children.items():
                if len(labels) != len(spec.labels):
                    # A process of another version counts by other labels.
                    continue
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
    """The buckets of a family: those of this process if it has any child."""
    for child in children.values():
        if isinstance(child, Histogram):
            return child.bounds
    return value.bounds


def _combine(spec: MetricSpec, one: float, other: float) -> float:
    match spec.merge:
        case "sum":
            return one + other
        case "max":
            return max(one, other)
        case "min":
            return min(one, other)
        case _:
            assert_never(spec.merge)


def subtract(snapshot: Snapshot, base: Snapshot) -> Snapshot:
    """The counts since `base`, with exemplars: counters and histograms without `base`, gauges unchanged."""
    return {name: _since(name, children, base.get(name, {})) for name, children in snapshot.items()}


def _since(
    name: str, children: dict[LabelValues, Value], base: Mapping[LabelValues, Value]
) -> dict[LabelValues, Value]:
    spec = METRICS_BY_NAME.get(name)
    if not base or spec is None or spec.type not in _LASTING_TYPES:
        return children
    rest: dict[LabelValues, Value] = {}
    for labels, value in children.items():
        old = base.get(labels)
        if isinstance(value, Histogram):
            rest[labels] = value if not isinstance(old, Histogram) else _without(value, old)
        else:
            rest[labels] = value if old is None or isinstance(old, Histogram) else max(0.0, value - old)
    return rest


def _without(histogram: Histogram, old: Histogram) -> Histogram:
    rest = histogram.copy()
    earlier = Histogram(histogram.bounds)
    earlier.add(old)
    more = [count - known for count, known in zip(histogram.counts, earlier.counts, strict=True)]
    # An observation from the ledger may be in another bucket than the original one. It is subtracted from the lowest
    # buckets that have any, so that no cumulative count decreases.
    missing = -sum(number for number in more if number < 0)
    rest.counts = []
    for number in more:
        taken = min(missing, max(number, 0))
        missing -= taken
        rest.counts.append(max(number, 0) - taken)
    rest.sum = max(0.0, round(histogram.sum - old.sum, _DIGITS))
    return rest


def lasting(snapshot: Snapshot) -> Snapshot:
    """The values that stay valid after the end of the process: counters, histograms and timestamps, but no gauges."""
    return {
        name: children
        for name, children in snapshot.items()
        if (spec := METRICS_BY_NAME.get(name)) is not None and (spec.type in _LASTING_TYPES or name in _MOMENTS)
    }


def capped(snapshot: Snapshot, cap: int, other: str) -> Snapshot:
    """The same counts, with at most `cap` values of each user-defined label; the rest counts as `other`."""
    return {name: _few(name, children, cap, other) for name, children in snapshot.items()}


def _few(name: str, children: Mapping[LabelValues, Value], cap: int, other: str) -> dict[LabelValues, Value]:
    spec = METRICS_BY_NAME.get(name)
    free = [index for index, label in enumerate(spec.labels) if label in _FREE_LABELS] if spec is not None else []
    seen: dict[int, set[str]] = {index: set() for index in free}
    kept: set[LabelValues] = set()
    result: dict[LabelValues, Value] = {}
    for given, value in children.items():
        labels = list(given)
        for index in free:
            if labels[index] not in seen[index] and len(seen[index]) >= cap:
                labels[index] = other
        if (group := tuple([labels[index] for index in free])) not in kept and len(kept) >= 5 * cap:
            # Each label is bounded, but their combinations could still be too many.
            for index in free:
                labels[index] = other
        kept.add(group)
        for index in free:
            seen[index].add(labels[index])
        key = tuple(labels)
        present = result.get(key)
        result[key] = value if present is None else merge([{name: {key: present}}, {name: {key: value}}])[name][key]
    return result


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON data for other processes: without exemplars, which stay in their process, and zeros."""
    return {
        name: written
        for name, children in snapshot.items()
        if (
            written := [
                [
                    list(labels),
                    {"bounds": list(value.bounds), "counts": value.counts, "sum": value.sum}
                    if isinstance(value, Histogram)
                    else value,
                ]
                for labels, value in children.items()
                if (any(value.counts) if isinstance(value, Histogram) else value)
            ]
        )
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
        raise ValueError("a histogram has a wrong number of buckets")
    histogram.counts = [int(count) for count in data["counts"]]
    histogram.sum = float(data["sum"])
    return histogram
