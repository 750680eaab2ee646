"""Metrics as text: negotiation of the format (RFC 9110, section 12.5.1), and conversion of the values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from math import inf
from typing import assert_never

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.samples import Exemplar as ClientExemplar

from taskflow_otel.exporters.prometheus.values import (
    Elsewhere,
    Exemplar,
    Histogram,
    LabelValues,
    Snapshot,
    Value,
    merge,
)
from taskflow_otel.exporters.signals import ELSEWHERE, METRICS
from taskflow_otel.exporters.specs import MetricSpec, MetricType


class MetricsFormat(StrEnum):
    """The formats of `/metrics`; the value is the media type."""

    TEXT = "text/plain"
    OPENMETRICS = "application/openmetrics-text"
    JSON = "application/json"


CONTENT_TYPES = {
    MetricsFormat.TEXT: "text/plain; version=0.0.4; charset=utf-8",
    MetricsFormat.OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
    MetricsFormat.JSON: "application/json",
}

_ENCODERS: dict[MetricsFormat, Callable[[CollectorRegistry], bytes]] = {
    MetricsFormat.TEXT: generate_latest,
    MetricsFormat.OPENMETRICS: generate_openmetrics,
}


_BY_PREFERENCE = (MetricsFormat.JSON, MetricsFormat.TEXT, MetricsFormat.OPENMETRICS)
_NAMED = 2
"""How specific a media range is that names its type."""


# Not by prometheus_client: its `choose_encoder` takes OpenMetrics if the header names it, even if it prefers text.
def negotiate(accept: str | None) -> MetricsFormat:
    """The format that an `Accept` header prefers; text if it allows no known format.

    JSON is served only if the header names it. Of equally preferred formats, a named one goes before one that a
    wildcard covers; after that, JSON goes before text, and text before OpenMetrics. A media range with another major
    version of OpenMetrics than 1 does not count.
    """
    ranges = list(_media_ranges(accept or "*/*"))
    best, best_rank = MetricsFormat.TEXT, (0.0, -1)
    for candidate in _BY_PREFERENCE:
        rank = _rank(candidate, ranges)
        named = rank[1] == _NAMED
        if rank[0] > 0 and rank > best_rank and (named or candidate is not MetricsFormat.JSON):
            best, best_rank = candidate, rank
    return best


def _media_ranges(accept: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for part in accept.split(","):
        media, *rest = (piece.strip() for piece in part.split(";"))
        parameters: dict[str, str] = {}
        for piece in rest:
            key, _, value = piece.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"')
        try:
            quality = min(max(float(parameters.pop("q", "1")), 0.0), 1.0)
        except ValueError:
            quality = 0.0
        yield media.lower(), parameters, quality


def _rank(candidate: MetricsFormat, ranges: list[tuple[str, dict[str, str], float]]) -> tuple[float, int]:
    """Quality and specificity of the most specific matching range; among equally specific ones, the best quality."""
    main = candidate.value.partition("/")[0]
    found = (-1, 0.0)
    for media, parameters, quality in ranges:
        if media == candidate.value:
            version = parameters.get("version", "")
            if candidate is MetricsFormat.OPENMETRICS and version and version.partition(".")[0] != "1":
                continue
            found = max(found, (_NAMED, quality))
        elif media == f"{main}/*":
            found = max(found, (1, quality))
        elif media == "*/*":
            found = max(found, (0, quality))
    return found[1], found[0]


def encode(registry: CollectorRegistry, form: MetricsFormat) -> bytes:
    """All collectors of a registry in one of the two exposition formats."""
    return _ENCODERS[form](registry)


def families(
    snapshot: Snapshot,
    specs: Iterable[MetricSpec] = METRICS,
    *,
    elsewhere: Elsewhere | None = None,
    exemplars_after: float = 0.0,
) -> Iterator[Metric]:
    """A snapshot as the metric families of `prometheus_client`.

    `elsewhere`: counts that are shown under a label of their own. `exemplars_after`: Unix time; exemplars that are not
    newer are left out.
    """
    others: Snapshot = {} if elsewhere is None else merge(elsewhere.parts)
    for spec in specs:
        children = snapshot.get(spec.name)
        if children is None and spec.name not in others:
            continue
        family = _family(spec, children or {}, exemplars_after)
        if elsewhere is not None:
            beyond = {ELSEWHERE: elsewhere.label}
            for sample in _family(spec, others.get(spec.name, {}), inf).samples:
                family.samples.append(sample._replace(labels={**sample.labels, **beyond}))
        yield family


def describe(specs: Iterable[MetricSpec] = METRICS) -> Iterator[Metric]:
    """The families without values, in which a registry looks for duplicate names."""
    for spec in specs:
        yield _family(spec, {})


def _family(spec: MetricSpec, children: dict[LabelValues, Value], exemplars_after: float = 0.0) -> Metric:
    if spec.type is MetricType.HISTOGRAM:
        histogram = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
        for labels, value in children.items():
            if isinstance(value, Histogram):
                histogram.add_metric(labels, _buckets(value, exemplars_after), value.sum)
        return histogram
    numbers = {labels: value for labels, value in children.items() if not isinstance(value, Histogram)}
    if spec.type is MetricType.INFO:
        info = InfoMetricFamily(spec.name.removesuffix("_info"), spec.help)
        for labels in numbers:
            info.add_metric((), dict(zip(spec.labels, labels, strict=True)))
        return info
    family: CounterMetricFamily | GaugeMetricFamily
    match spec.type:
        case MetricType.COUNTER:
            family = CounterMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
        case MetricType.GAUGE:
            family = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
        case MetricType.HISTOGRAM:
            raise AssertionError(f"{spec.name} has numbers where a histogram has buckets")
        case _:
            assert_never(spec.type)
    for labels, number in numbers.items():
        family.add_metric(labels, number)
    return family


def _buckets(
    histogram: Histogram, exemplars_after: float
) -> list[tuple[str, float] | tuple[str, float, ClientExemplar]]:
    buckets: list[tuple[str, float] | tuple[str, float, ClientExemplar]] = []
    total = 0
    for bound, count, exemplar in zip((*histogram.bounds, inf), histogram.counts, histogram.exemplars, strict=True):
        total += count
        name = "+Inf" if bound == inf else repr(bound)
        if exemplar is None or exemplar.timestamp <= exemplars_after:
            buckets.append((name, total))
        else:
            buckets.append((name, total, _client_exemplar(exemplar)))
    return buckets


def _client_exemplar(exemplar: Exemplar) -> ClientExemplar:
    labels = {"trace_id": exemplar.trace_id, "span_id": exemplar.span_id}
    return ClientExemplar(labels, exemplar.value, exemplar.timestamp)
