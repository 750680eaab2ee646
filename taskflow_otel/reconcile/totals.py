"""What the ledger, a metrics page, a Prometheus server and a collector say about the same counters."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.exposition import families
from taskflow_otel.runtime.passwords import without_passwords

Labels = tuple[str, ...]
Totals = dict[tuple[str, Labels], float]
"""Sample name and label values → value."""

_COUNTERS = (
    signals.TASKS_ENQUEUED,
    signals.TASK_ATTEMPTS,
    signals.TASKS_FINISHED,
    signals.TASK_RETRIES,
    signals.SLO_EVENTS,
)
_HISTOGRAMS = (signals.RUN_DURATION, signals.QUEUE_WAIT_TIME, signals.END_TO_END)
SAMPLES = {spec.name: spec for spec in _COUNTERS} | {f"{spec.name}_count": spec for spec in _HISTOGRAMS}
"""The samples that can be computed from the ledger."""
OTEL_SAMPLES = {
    signals.otel_name(spec): (spec.name if spec in _COUNTERS else f"{spec.name}_count", spec)
    for spec in (*_COUNTERS, *_HISTOGRAMS)
}
"""The same by their OpenTelemetry names."""


def ledger_totals(counted: PrometheusExporter) -> Totals:
    """The totals of an exporter that has replayed the ledger."""
    samples = (sample for family in families(counted.snapshot()) for sample in family.samples)
    return {(sample.name, tuple(sample.labels.values())): sample.value for sample in samples if sample.name in SAMPLES}


def page_totals(page: str, name: str) -> Totals:
    """The totals of a metrics page; raises `ConfigurationError` for other text."""
    try:
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    except (ValueError, KeyError, IndexError) as exc:
        raise ConfigurationError(f"{name} is not a metrics page in the Prometheus text format: {exc}") from exc
    return added_up((s.name, in_order(s.name, s.labels), s.value) for s in samples if s.name in SAMPLES)


def prometheus_totals(fetch: Callable[[str], str], url: str, selector: str) -> Totals:
    """The sums over all targets that a Prometheus server has now; `fetch` reads a URL.

    `selector`: matchers of the series, such as `job="shop"`. Raises `ConfigurationError` for anything but data.
    """
    totals: Totals = {}
    for sample, spec in SAMPLES.items():
        query = urllib.parse.urlencode({"query": f"sum by ({', '.join(spec.labels)}) ({sample}{{{selector}}})"})
        text = fetch(f"{url.rstrip('/')}/api/v1/query?{query}")
        try:
            for series in json.loads(text)["data"]["result"]:
                totals[sample, in_order(sample, series["metric"])] = float(series["value"][1])
        except (ValueError, KeyError, TypeError, IndexError) as exc:
            raise ConfigurationError(
                f"{without_passwords(url)} does not answer queries as Prometheus does: {exc!r}"
            ) from exc
    return totals


def in_order(sample: str, labels: Mapping[str, str]) -> Labels:
    """The values of the labels that the table of signals names, in its order."""
    return tuple(labels.get(label, "") for label in SAMPLES[sample].labels)


def added_up(samples: Iterable[tuple[str, Labels, float]]) -> Totals:
    """Samples of one name and labels added up."""
    totals: Totals = {}
    for sample, labels, value in samples:
        totals[sample, labels] = totals.get((sample, labels), 0.0) + value
    return totals
