"""A metrics exporter on a bus, and what one scrape of it says."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from tests.clocks import HandClock

OPENMETRICS = "application/openmetrics-text"


class Scraped:
    """The samples of one scrape."""

    def __init__(self, exporter: PrometheusExporter, accept: str = "text/plain") -> None:
        body, self.content_type = exporter.render(accept)
        self.text = body.decode()
        parse = parse_openmetrics if self.content_type.startswith(OPENMETRICS) else parse_text
        self.samples: list[Sample] = [s for family in parse(self.text) for s in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples that carry these labels; `None` without any."""
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(found) if found else None


class Leaping(HandClock):
    """Two seconds later at each look, so that nothing rendered is shown twice."""

    def monotonic(self) -> float:
        self.seconds += 2
        return self.seconds


@pytest.fixture
def exporter() -> PrometheusExporter:
    return PrometheusExporter(clock=Leaping())


@pytest.fixture
def bus(exporter: PrometheusExporter) -> ObserverBus:
    return ObserverBus([exporter])
