from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import TracerProvider

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.otel.metrics import OtelMetricsExporter
from taskflow_otel.exporters.otel.tracing import TracingExporter
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Histogram
from tests.exporters.story import Story
from tests.waiting import eventually


class Metered:
    """A bus with both metric sinks, and what the SDK collects."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.prometheus = PrometheusExporter(max_label_values=5)
        self.bus = ObserverBus(
            [
                TracingExporter(self.tracer_provider),
                self.prometheus,
                OtelMetricsExporter(self.prometheus, self.provider),
            ]
        )

    def collect(self) -> dict[str, list[Any]]:
        """The data points by metric name."""
        data = self.reader.get_metrics_data()
        assert isinstance(data, MetricsData)
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
async def metered() -> Any:
    made = Metered()
    await made.bus.start()
    yield made
    made.provider.shutdown()
    made.tracer_provider.shutdown()


def values(points: list[Any]) -> dict[tuple[str, ...], float]:
    return {tuple(str(v) for v in point.attributes.values()): point.value for point in points}


def test_both_sinks_have_the_same_counters_and_gauges(metered: Metered) -> None:
    Story(metered.bus).created().enqueued().started().retried().started().succeeded()
    Story(metered.bus).created().enqueued().started()
    collected = metered.collect()
    snapshot = metered.prometheus.snapshot()
    compared = 0
    for spec in signals.METRICS:
        children = {k: v for k, v in snapshot.get(spec.name, {}).items() if not isinstance(v, Histogram)}
        if children:
            assert values(collected[signals.otel_name(spec)]) == children
            compared += 1
    assert compared >= 10


def test_histograms_agree_and_use_the_same_buckets(metered: Metered) -> None:
    Story(metered.bus).created().enqueued().started().retried().started().succeeded()
    collected = metered.collect()
    for spec in (signals.RUN_DURATION, signals.QUEUE_WAIT_TIME, signals.END_TO_END):
        (point,) = collected[signals.otel_name(spec)]
        labels = {"task": "send_email", "queue": "default"}
        chosen = {name: labels[name] for name in spec.labels}
        ours = metered.prometheus.snapshot()[spec.name][tuple(chosen.values())]
        assert isinstance(ours, Histogram)
        assert (list(point.bucket_counts), point.sum) == (ours.counts, ours.sum)
        assert tuple(point.explicit_bounds) == ours.bounds
        assert dict(point.attributes) == chosen


def test_messaging_metrics_follow_the_semantic_conventions(metered: Metered) -> None:
    Story(metered.bus).created().enqueued().started().retried().started().succeeded()
    Story(metered.bus).created().enqueued().started()
    collected = metered.collect()
    (sent,) = collected["messaging.client.sent.messages"]
    (consumed,) = collected["messaging.client.consumed.messages"]
    assert (sent.value, consumed.value) == (2, 3)
    assert sent.attributes["messaging.operation.name"] == "send"
    by_error = {point.attributes.get("error.type"): point.count for point in collected["messaging.process.duration"]}
    assert by_error == {None: 1, "ConnectionError": 1}


def test_a_refused_write_makes_no_counter_fall(metered: Metered) -> None:
    story = Story(metered.bus).created().enqueued().started()
    before = metered.collect()
    metered.bus.refused(story.record)
    after = metered.collect()
    assert values(before["messaging.client.consumed.messages"]) == values(after["messaging.client.consumed.messages"])
    assert list(values(after["taskflow.tasks_running"]).values()) == [0]


def test_exemplars_lead_to_the_attempt(metered: Metered) -> None:
    story = Story(metered.bus).created().enqueued().started().succeeded()
    (point,) = metered.collect()[signals.otel_name(signals.RUN_DURATION)]
    (exemplar,) = point.exemplars
    assert f"{exemplar.trace_id:032x}" == story.record.trace_id


def test_names_beyond_the_cap_share_one_series(metered: Metered) -> None:
    for number in range(20):
        Story(metered.bus, f"t{number}").created().enqueued().started().failed(error_type=f"E{number}")
    points = metered.collect()["messaging.process.duration"]
    assert len({point.attributes["messaging.destination.name"] for point in points}) == 6
    assert len({point.attributes["error.type"] for point in points}) == 6


@pytest.fixture
def nothing() -> ObserverBus:
    prometheus = PrometheusExporter()
    return ObserverBus([prometheus, OtelMetricsExporter(prometheus, NoOpMeterProvider())])


async def test_without_a_meter_provider_nothing_is_recorded(nothing: ObserverBus) -> None:
    await nothing.start()
    Story(nothing).created().enqueued().started().succeeded()
    assert await nothing.flush(5)
    assert nothing.errors == {}


def test_values_that_no_event_carries_are_recorded_too(metered: Metered) -> None:
    metered.prometheus.observe_backend("sqlite", "apply", "ok", 0.002)
    metered.prometheus.observe(signals.SCHEDULE_LATENESS.name, 0.3, "nightly")
    collected = metered.collect()
    both = ((signals.BACKEND_OPERATION, ("sqlite", "apply", "ok")), (signals.SCHEDULE_LATENESS, ("nightly",)))
    for spec, labels in both:
        (point,) = collected[signals.otel_name(spec)]
        ours = metered.prometheus.snapshot()[spec.name][labels]
        assert isinstance(ours, Histogram)
        assert (list(point.bucket_counts), tuple(point.explicit_bounds)) == (ours.counts, ours.bounds)
        assert tuple(point.attributes.values()) == labels


async def test_a_global_provider_that_is_set_after_the_start_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    provided: list[Any] = [NoOpMeterProvider()]
    monkeypatch.setattr("taskflow_otel.exporters.otel.metrics.metrics.get_meter_provider", lambda: provided[-1])
    monkeypatch.setattr("taskflow_otel.exporters.otel.metrics._FIRST_LOOK", 0.01)
    prometheus = PrometheusExporter()
    prometheus.register_task("send_email", "default")
    bus = ObserverBus([prometheus, OtelMetricsExporter(prometheus)])
    await bus.start()
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provided.append(provider)
    found: list[MetricsData] = []

    def collected() -> bool:
        data = reader.get_metrics_data()
        found.extend([data] if isinstance(data, MetricsData) else [])
        return bool(found)

    # No task comes: its zeroes are there nevertheless.
    await eventually(collected, "a collection")
    names = {metric.name for scope in found[-1].resource_metrics[0].scope_metrics for metric in scope.metrics}
    assert signals.otel_name(signals.TASKS_FINISHED) in names
    await bus.close(1)
    provider.shutdown()


async def test_a_bus_that_ends_looks_no_further_for_a_provider() -> None:
    exporter = OtelMetricsExporter(PrometheusExporter())
    bus = ObserverBus([exporter])
    await bus.start()
    await bus.close(1)
    assert exporter._timer is None
