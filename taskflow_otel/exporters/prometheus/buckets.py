"""The bounds of histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.specs import MetricType


def resolve_buckets(given: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """The bounds of every histogram: the given ones or the defaults; raises `ConfigurationError`."""
    buckets = {spec.name: spec.buckets for spec in signals.METRICS if spec.type is MetricType.HISTOGRAM}
    for name, bounds in given.items():
        if name not in buckets:
            raise ConfigurationError(f"buckets: there is no histogram {name!r} (known: {', '.join(sorted(buckets))})")
        values = tuple(float(bound) for bound in bounds)
        increasing = all(low < high for low, high in pairwise(values))
        if not values or not increasing or values[0] <= 0 or values[-1] == float("inf"):
            raise ConfigurationError(
                f"buckets of {name} must be finite, above 0 and strictly increasing, not {bounds!r}"
            )
        buckets[name] = values
    return buckets
