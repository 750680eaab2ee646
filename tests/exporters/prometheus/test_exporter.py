from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter

from taskflow_otel.bus import ObserverBus
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.otel.tracing import TracingExporter
from taskflow_otel.exporters.prometheus.exporter import DEFAULT_MAX_LABEL_VALUES, PrometheusExporter
from taskflow_otel.model.status import Transition
from tests.clocks import HandClock
from tests.exporters.prometheus.conftest import OPENMETRICS, Scraped
from tests.exporters.story import START, Story


def test_a_task_that_succeeds_after_a_retry_is_counted_everywhere(
    exporter: PrometheusExporter, bus: ObserverBus
) -> None:
    Story(bus).created().enqueued().started().retried().started().succeeded()
    scraped = Scraped(exporter)
    task = {"task": "send_email", "queue": "default"}
    assert scraped.value("taskflow_tasks_enqueued_total", **task, source="manual") == 1
    assert scraped.value("taskflow_task_attempts_total", **task, outcome="failed") == 1
    assert scraped.value("taskflow_task_attempts_total", **task, outcome="success") == 1
    assert scraped.value("taskflow_tasks_finished_total", **task, outcome="success") == 1
    assert scraped.value("taskflow_tasks_finished_total", **task) == 1
    assert scraped.value("taskflow_task_retries_total", **task) == 1
    assert scraped.value("taskflow_task_exceptions_total", task="send_email", error_type="ConnectionError") == 1
    name = {"task": "send_email"}
    assert scraped.value("taskflow_task_run_duration_seconds_count", **name) == 2
    assert scraped.value("taskflow_task_run_duration_seconds_sum", **name) == 2
    assert scraped.value("taskflow_task_run_duration_seconds_bucket", **name, le="0.5") == 0
    assert scraped.value("taskflow_task_run_duration_seconds_bucket", **name, le="1.0") == 2
    assert scraped.value("taskflow_task_queue_wait_seconds_sum", **task) == 0.5
    assert scraped.value("taskflow_task_end_to_end_seconds_sum", **name) == 5
    assert scraped.value("taskflow_tasks_running", **task) == 0
    assert scraped.value("taskflow_task_last_success_timestamp_seconds", task="send_email") == START.timestamp() + 5
    assert scraped.value("taskflow_build_info") == 1


def test_running_tasks_are_those_inside_their_function(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    stories = [Story(bus).created().enqueued().started() for _ in range(3)]
    Story(bus).created().enqueued()
    assert Scraped(exporter).value("taskflow_tasks_running") == 3
    stories[0].succeeded()
    stories[1].tell(Transition.CANCELLED)
    bus.refused(stories[2].record)
    scraped = Scraped(exporter)
    assert scraped.value("taskflow_tasks_running") == 0
    assert scraped.value("taskflow_fenced_writes_total") == 1


def test_a_task_that_never_ran_has_no_attempt_and_no_duration(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    Story(bus).created().enqueued().tell(Transition.CANCELLED, reason="request_failed")
    Story(bus).created().tell(Transition.REJECTED, reason="queue_full")
    scraped = Scraped(exporter)
    assert scraped.value("taskflow_tasks_finished_total", outcome="cancelled") == 1
    assert scraped.value("taskflow_tasks_finished_total", outcome="rejected") == 1
    assert scraped.value("taskflow_task_attempts_total") == 0
    assert scraped.value("taskflow_task_end_to_end_seconds_count") == 0


@pytest.mark.parametrize(
    ("ran", "transition", "reason", "label"),
    [
        (False, Transition.RECOVERED, "process_died", "waiting"),
        (True, Transition.RECOVERED, "process_died", "rerun"),
        (True, Transition.INTERRUPTED, "process_died", "interrupted"),
        (True, Transition.FAILED, "poison", "poison"),
    ],
)
def test_recovered_tasks_are_counted_by_what_happened_to_them(
    exporter: PrometheusExporter, bus: ObserverBus, ran: bool, transition: Transition, reason: str, label: str
) -> None:
    dead = Story(ObserverBus()).created().enqueued()
    if ran:
        dead.started()
    dead.taken_over(bus).tell(transition, reason=reason)
    scraped = Scraped(exporter)
    assert scraped.value("taskflow_tasks_recovered_total", reason=label) == 1
    assert scraped.value("taskflow_tasks_recovered_total") == 1
    assert scraped.value("taskflow_tasks_running") == 0, "it never counted as running in this process"


def test_an_interruption_by_shutdown_is_no_recovery(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    Story(bus).created().enqueued().started().tell(Transition.INTERRUPTED, reason="shutdown")
    assert Scraped(exporter).value("taskflow_tasks_recovered_total") == 0


def test_a_registered_task_shows_zeros_before_anything_happened(exporter: PrometheusExporter) -> None:
    exporter.register_task("nightly", "slow")
    scraped = Scraped(exporter)
    for name in ("taskflow_tasks_enqueued_total", "taskflow_tasks_finished_total", "taskflow_task_retries_total"):
        assert scraped.value(name, task="nightly", queue="slow") == 0
    assert scraped.value("taskflow_task_run_duration_seconds_count", task="nightly") == 0
    assert scraped.value("taskflow_task_last_success_timestamp_seconds") is None


def test_values_beyond_the_cap_share_one_child_and_are_counted() -> None:
    exporter = PrometheusExporter(max_label_values=10)
    bus = ObserverBus([exporter])
    for number in range(200):
        Story(bus, f"task-{number}").created().enqueued().started().failed(error_type=f"Error{number}")
    scraped = Scraped(exporter)
    names = {s.labels["task"] for s in scraped.samples if "task" in s.labels}
    assert names == {f"task-{number}" for number in range(10)} | {"_other"}
    assert len({s.labels["error_type"] for s in scraped.samples if "error_type" in s.labels}) == 11
    assert scraped.value("taskflow_tasks_finished_total") == 200
    assert scraped.value("taskflow_task_exceptions_total") == 200
    assert scraped.value("taskflow_label_overflow_total", label="task") == 190 * 3
    assert scraped.value("taskflow_label_overflow_total", label="error_type") == 190
    assert len(exporter._tasks._cells) == 11


def test_a_hundred_thousand_names_and_error_types_make_few_series() -> None:
    exporter = PrometheusExporter()
    story = Story(ObserverBus([exporter])).created()
    story.enqueued().started()
    failed = story.tell(Transition.FAILED)
    for number in range(100_000):
        exporter.on_lifecycle(replace(failed, func_name=f"task-{number}", error_type=f"Error{number}"))
    scraped = Scraped(exporter)
    assert scraped.value("taskflow_tasks_finished_total") == 100_001
    for label in ("task", "error_type"):
        assert len({s.labels[label] for s in scraped.samples if label in s.labels}) <= DEFAULT_MAX_LABEL_VALUES + 1
    of_one_task = [s for s in scraped.samples if s.labels.get("task") == "task-1"]
    assert len(scraped.samples) <= len(of_one_task) * (DEFAULT_MAX_LABEL_VALUES + 2) + 100


def test_pairs_of_labels_are_capped_too() -> None:
    exporter = PrometheusExporter(max_label_values=4)
    bus = ObserverBus([exporter])
    for number in range(100):
        Story(bus, f"t{number % 4}", queue=f"q{number % 50}").created().enqueued().started().failed(
            error_type=f"E{number % 7}"
        )
    scraped = Scraped(exporter)
    assert len(exporter._tasks._cells) <= 25
    assert len(exporter._tasks._exceptions) <= 25
    assert scraped.value("taskflow_tasks_finished_total") == 100
    assert scraped.value("taskflow_task_exceptions_total") == 100


def test_sampled_spans_become_exemplars_in_openmetrics(exporter: PrometheusExporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    bus = ObserverBus([TracingExporter(provider), exporter])
    story = Story(bus).created().enqueued().started().succeeded()
    scraped = Scraped(exporter, OPENMETRICS)
    exemplars = [s.exemplar for s in scraped.samples if s.exemplar is not None]
    assert {s.name for s in scraped.samples if s.exemplar} == {
        "taskflow_task_run_duration_seconds_bucket",
        "taskflow_task_queue_wait_seconds_bucket",
        "taskflow_task_end_to_end_seconds_bucket",
    }
    expected = {"trace_id": story.record.trace_id, "span_id": story.record.span_id}
    assert all(exemplar.labels == expected for exemplar in exemplars)
    assert "# {" not in Scraped(exporter).text
    provider.shutdown()


def test_a_type_in_several_queues_has_one_histogram_of_run_times_with_its_latest_exemplar(
    exporter: PrometheusExporter,
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    bus = ObserverBus([TracingExporter(provider), exporter])
    # The queue that is used last is the first in the order of the cells.
    stories = [Story(bus, queue=queue).created().enqueued().started() for queue in ("mail", "bulk")]
    for story, seconds in zip(reversed(stories), (1, 3), strict=True):
        story.tell(Transition.SUCCEEDED, duration=seconds / 10)
    scraped = Scraped(exporter, OPENMETRICS)
    for name, number in (("run_duration", 2), ("end_to_end", 2)):
        assert scraped.value(f"taskflow_task_{name}_seconds_count", task="send_email") == number
        assert not [s for s in scraped.samples if s.name.startswith(f"taskflow_task_{name}") and "queue" in s.labels]
    assert scraped.value("taskflow_task_run_duration_seconds_sum", task="send_email") == 0.4
    shown = [s.exemplar.labels["span_id"] for s in scraped.samples
             if s.exemplar is not None and s.name == "taskflow_task_run_duration_seconds_bucket"]  # fmt: skip
    assert shown == [stories[1].record.span_id, stories[0].record.span_id]
    provider.shutdown()


def test_unsampled_spans_leave_no_exemplar(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    story = Story(bus).created().enqueued().started()
    assert story.record.trace.attempt is not None
    story.record.trace.attempt.trace_id, story.record.trace.attempt.span_id = "1" * 32, "2" * 16
    story.succeeded()
    assert not [s for s in Scraped(exporter, OPENMETRICS).samples if s.exemplar]


def test_buckets_can_be_set(bus: ObserverBus) -> None:
    exporter = PrometheusExporter(buckets={"taskflow_task_run_duration_seconds": (0.5, 2)})
    Story(ObserverBus([exporter])).created().enqueued().started().succeeded()
    bounds = [
        s.labels["le"] for s in Scraped(exporter).samples if s.name == "taskflow_task_run_duration_seconds_bucket"
    ]
    assert bounds == ["0.5", "2.0", "+Inf"]


def test_a_given_registry_is_shared_with_the_applications_own_metrics() -> None:
    registry = CollectorRegistry()
    Counter("orders", "Orders.", registry=registry).inc()
    exporter = PrometheusExporter(registry)
    assert Scraped(exporter).value("orders_total") == 1
    with pytest.raises(ConfigurationError, match="its own"):
        PrometheusExporter(registry)


def test_sources_are_read_at_each_scrape(exporter: PrometheusExporter) -> None:
    depth = [1]
    exporter.add_source("taskflow_queue_depth", lambda: [(("default", "ready"), depth[0])])
    assert Scraped(exporter).value("taskflow_queue_depth", queue="default", state="ready") == 1
    depth[0] = 2
    assert Scraped(exporter).value("taskflow_queue_depth", queue="default", state="ready") == 2


def test_a_source_that_fails_or_has_wrong_labels_costs_only_its_own_metric(
    exporter: PrometheusExporter, caplog: pytest.LogCaptureFixture
) -> None:
    exporter.add_source("taskflow_queue_depth", lambda: [(("default",), 1)])
    exporter.add_source("taskflow_executor_slots", lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    scraped = Scraped(exporter)
    assert scraped.value("taskflow_queue_depth") is None
    assert scraped.value("taskflow_build_info") == 1
    assert len(caplog.records) == 2


def test_metrics_outside_the_table_are_refused(exporter: PrometheusExporter) -> None:
    with pytest.raises(ConfigurationError, match="signals"):
        exporter.add_source("made_up", list)
    with pytest.raises(ConfigurationError, match="signals"):
        exporter.count("taskflow_queue_depth", "a", "b")
    with pytest.raises(ConfigurationError, match="labels"):
        exporter.count("taskflow_schedule_errors_total")
    with pytest.raises(ConfigurationError, match="labels"):
        exporter.observe("taskflow_schedule_lateness_seconds", 1.0)


def test_what_no_lifecycle_event_moves_is_counted_by_hand(exporter: PrometheusExporter) -> None:
    exporter.count("taskflow_schedule_missed_total", "nightly", by=2)
    exporter.count("taskflow_schedule_missed_total", "nightly")
    exporter.observe_backend("sqlite", "apply", "ok", 0.003)
    scraped = Scraped(exporter)
    assert scraped.value("taskflow_schedule_missed_total", schedule="nightly") == 3
    labels = {"backend": "sqlite", "operation": "apply", "outcome": "ok"}
    assert scraped.value("taskflow_backend_operation_duration_seconds_bucket", **labels, le="0.001") == 0
    assert scraped.value("taskflow_backend_operation_duration_seconds_bucket", **labels, le="0.005") == 1


def test_several_scrapes_within_a_second_render_once() -> None:
    clock = HandClock()
    exporter = PrometheusExporter(clock=clock)
    bus = ObserverBus([exporter])
    assert Scraped(exporter).value("taskflow_tasks_enqueued_total") is None
    Story(bus).created().enqueued()
    assert Scraped(exporter).value("taskflow_tasks_enqueued_total") is None
    assert Scraped(exporter, OPENMETRICS).value("taskflow_tasks_enqueued_total") == 1, "each format has its own"
    clock.seconds = 1.0
    assert Scraped(exporter).value("taskflow_tasks_enqueued_total") == 1


def test_a_duration_that_nobody_measured_is_taken_from_the_times(
    exporter: PrometheusExporter, bus: ObserverBus
) -> None:
    story = Story(bus).created().enqueued().started()
    record = replace(story.record)
    story.tell(Transition.SUCCEEDED, duration=None, end_time=(record.start_time or START) + timedelta(seconds=3))
    assert Scraped(exporter).value("taskflow_task_run_duration_seconds_sum") == 3
