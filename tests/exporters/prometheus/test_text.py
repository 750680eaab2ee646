"""The page as text: what `prometheus_client` would write, byte by byte."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from math import inf, nan

import pytest
from prometheus_client import CollectorRegistry, Counter

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus import exposition
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.exposition import MetricsFormat
from taskflow_otel.exporters.prometheus.values import Elsewhere, Histogram, Snapshot
from taskflow_otel.model.trace import SpanRef
from tests.exporters.story import START, Story

each_format = pytest.mark.parametrize("form", [MetricsFormat.TEXT, MetricsFormat.OPENMETRICS])
NAMES = ("send", 'with "quotes"', "a\nb", "back\\slash", "Zoë", "")
NUMBERS = (0.0, 1.5, 999_999, 1_000_000, 123_456_789, 1e-7, 1e22, 0.1 + 0.2, -3, inf, -inf, nan)


def both(exporter: PrometheusExporter, form: MetricsFormat) -> tuple[Sequence[str], Sequence[str]]:
    """The lines of the page, and those of `prometheus_client` for the same metrics."""
    body, _ = exporter.render(form.value)
    return body.decode().split("\n"), exposition.encode(exporter.registry, form).decode().split("\n")


def busy(**fields: float) -> PrometheusExporter:
    """An exporter with something in each kind of metric, and exemplars in some buckets."""
    exporter = PrometheusExporter(**fields)  # type: ignore[arg-type]
    exporter.register_task("idle", "default")
    bus = ObserverBus([exporter])
    for number, name in enumerate(NAMES):
        story = Story(bus, name, queue=NAMES[-number]).created().enqueued().started()
        story.failed(duration=10.0**number, span=SpanRef("a" * 32, "b" * 16, number % 2))
        exporter.observe_backend(name, "apply", "ok", 0.3)
    numbers = [((name, "ready"), value) for name, value in zip(map(str, NUMBERS), NUMBERS, strict=True)]
    exporter.add_source(signals.QUEUE_DEPTH.name, lambda: numbers)
    return exporter


def shown_elsewhere() -> Elsewhere:
    histogram = Histogram((1.0, 30.0))
    for value in (0.5, 2.0, 2_000_000.0):
        histogram.observe_in(value, SpanRef("c" * 32, "d" * 16, 1), START)
    counts: Snapshot = {
        signals.QUEUE_WAIT_TIME.name: {("send", "mail"): histogram, ("gone", 'q"'): histogram},
        signals.SCHEDULE_LATENESS.name: {("nightly",): histogram},
        signals.TASKS_RECOVERED.name: {("rerun",): 2_500_000},
        signals.INSTANCES.name: {("web",): 1.0},
        signals.BUILD_INFO.name: {("0.0.9",): 1.0},
    }
    return Elsewhere("5eed", (counts, counts))


@each_format
def test_the_page_is_that_of_prometheus_client(form: MetricsFormat) -> None:
    page, expected = both(busy(), form)
    assert page == expected


@each_format
def test_the_page_of_several_processes_is_too(form: MetricsFormat) -> None:
    exporter = busy()
    for age in (0.0, (START + timedelta(seconds=2)).timestamp(), inf):
        exporter.set_peers([busy().snapshot(), {}], elsewhere=shown_elsewhere(), exemplars_after=age)
        page, expected = both(exporter, form)
        assert page == expected
        # The label is another one whenever something joins.
        exporter.set_peers([], elsewhere=shown_elsewhere()._replace(label="other"))
        page, expected = both(exporter, form)
        assert page == expected


@each_format
def test_other_metrics_of_the_registry_of_the_application_are_on_the_page(form: MetricsFormat) -> None:
    registry = CollectorRegistry()
    orders = Counter("orders", "Orders.", registry=registry)
    exporter = PrometheusExporter(registry)
    orders.inc()
    page, expected = both(exporter, form)
    assert "orders_total 1.0" in page
    # In another order.
    assert sorted(page) == sorted(expected)
    assert page[-1] == ""
    assert ("# EOF" in page) == (form is MetricsFormat.OPENMETRICS) == (page[-2] == "# EOF")
    # An application may render the registry itself.
    assert any(line.startswith("taskflow_build_info") for line in expected)


def test_label_texts_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_otel.exporters.prometheus.text._MOST", 10)
    exporter = busy()
    for _ in range(3):
        page, expected = both(exporter, MetricsFormat.TEXT)
        assert page == expected
