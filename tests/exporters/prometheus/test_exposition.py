"""Metrics as text: the format that the client prefers, and what promtool says of it."""

from __future__ import annotations

import subprocess
from functools import partial

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.exposition import MetricsFormat, negotiate
from tests.exporters.prometheus.conftest import OPENMETRICS, Scraped
from tests.exporters.story import Story
from tests.servers import find_binary

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


PROMETHEUS_3 = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, MetricsFormat.TEXT),
        ("", MetricsFormat.TEXT),
        ("*/*", MetricsFormat.TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", MetricsFormat.TEXT),
        (PROMETHEUS_2, MetricsFormat.OPENMETRICS),
        (PROMETHEUS_3, MetricsFormat.OPENMETRICS),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.4", MetricsFormat.TEXT),
        ("application/openmetrics-text; version=2.0.0, text/plain;q=0.1", MetricsFormat.TEXT),
        ("application/openmetrics-text; version=0.0.1", MetricsFormat.TEXT),
        ("APPLICATION/OPENMETRICS-TEXT", MetricsFormat.OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', MetricsFormat.OPENMETRICS),
        ("application/openmetrics-text;q=0, */*", MetricsFormat.TEXT),
        ("text/plain;q=0, */*;q=0.1", MetricsFormat.OPENMETRICS),
        ("application/json", MetricsFormat.JSON),
        ("application/json, text/plain;q=0.9", MetricsFormat.JSON),
        ("application/json, */*", MetricsFormat.JSON),
        ("application/json, text/plain, */*", MetricsFormat.JSON),
        ("APPLICATION/JSON", MetricsFormat.JSON),
        ("application/json;q=0.9, text/plain;q=0.1", MetricsFormat.JSON),
        ("application/json;q=0.1, text/plain;q=0.9", MetricsFormat.TEXT),
        ("application/json;q=0", MetricsFormat.TEXT),
        ("application/json;q=x", MetricsFormat.TEXT),
        ("application/*", MetricsFormat.OPENMETRICS),
        ("application/json;q=0.5, */*", MetricsFormat.TEXT),
        ("application/json;q=0.5, text/*", MetricsFormat.TEXT),
        ("text/plain;q=nonsense", MetricsFormat.TEXT),
        ("image/png", MetricsFormat.TEXT),
    ],
)
def test_the_format_is_the_one_that_the_client_prefers(accept: str | None, expected: MetricsFormat) -> None:
    assert negotiate(accept) is expected


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/json", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_the_content_type_says_what_was_rendered(exporter: PrometheusExporter, accept: str, content_type: str) -> None:
    assert Scraped(exporter, accept).content_type == content_type


def test_names_with_quotes_and_newlines_do_not_break_the_page(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    name = 'a "b"\\ \n é'
    Story(bus, name).created().enqueued()
    for accept in ("text/plain", OPENMETRICS):
        assert Scraped(exporter, accept).value("taskflow_tasks_enqueued_total", task=name) == 1


def everything(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    """Give every metric of the table a value."""
    Story(bus).created().enqueued().started().retried().started().succeeded()
    for spec in signals.METRICS:
        labels = tuple(f"some {label}" for label in spec.labels)
        if spec.type == "histogram":
            exporter.observe(spec.name, 0.1, *labels)
        elif not spec.on and spec.type != "info":
            exporter.add_source(spec.name, partial(list, [(labels, 1.0)]))


def test_promtool_finds_nothing_to_complain_about(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    everything(exporter, bus)
    checked = subprocess.run(
        [find_binary("promtool", "prometheus"), "check", "metrics"],
        input=Scraped(exporter).text,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_metric_of_the_table_is_exposed_and_nothing_else(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    everything(exporter, bus)
    families = {f.name: f for f in parse_openmetrics(Scraped(exporter, OPENMETRICS).text)}
    promised = {spec.name.removesuffix("_total").removesuffix("_info"): spec for spec in signals.METRICS}
    assert set(families) == set(promised)
    for name, spec in promised.items():
        family = families[name]
        assert (family.type, family.documentation, family.unit) == (spec.type, spec.help, spec.unit)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)
