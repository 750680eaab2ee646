"""PromQL from the table of signals, limited to the jobs and instances that a dashboard shows."""

from __future__ import annotations

from taskflow_otel.exporters.specs import MetricSpec, MetricType

SCOPE = ('cluster=~"$cluster"', 'namespace=~"$namespace"', 'job=~"$job"', 'instance=~"$instance"')
"""The matchers that every query of a dashboard has. Series without a cluster or namespace match `All`."""


def select(spec: MetricSpec, *matchers: str, suffix: str = "") -> str:
    """The selector of a metric's series; `suffix` is `_bucket`, `_sum` or `_count` of a histogram."""
    return f"{spec.name}{suffix}{{{', '.join((*SCOPE, *matchers))}}}"


def rate(spec: MetricSpec, *matchers: str, suffix: str = "", by: str = "") -> str:
    """The summed rate per second of a counter, or of a histogram's observations, by labels ("a, b")."""
    if spec.type is MetricType.HISTOGRAM and not suffix:
        suffix = "_count"
    return f"{_sum(by)} (rate({select(spec, *matchers, suffix=suffix)}[$__rate_interval]))"


def increase(spec: MetricSpec, *matchers: str, suffix: str = "", by: str = "") -> str:
    """How much a counter grew in each step of the graph."""
    return f"{_sum(by)} (increase({select(spec, *matchers, suffix=suffix)}[$__rate_interval]))"


def total(spec: MetricSpec, *matchers: str, by: str = "") -> str:
    """How much a counter grew in all that the dashboard shows."""
    return f"{_sum(by)} (increase({select(spec, *matchers)}[$__range]))"


def quantile(q: float, spec: MetricSpec, *matchers: str, by: str = "", shown: bool = False) -> str:
    """A quantile of a histogram over all that is selected, by labels; with `shown` over the whole time range."""
    labels = f"le, {by}" if by else "le"
    buckets = rate(spec, *matchers, suffix="_bucket", by=labels)
    return f"histogram_quantile({q}, {buckets.replace('$__rate_interval', '$__range') if shown else buckets})"


def gauge(spec: MetricSpec, *matchers: str, by: str = "") -> str:
    """A gauge over all instances by labels: added up, highest or lowest, as the table of signals says."""
    return f"{spec.merge}{f' by ({by})' if by else ''} ({select(spec, *matchers)})"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
