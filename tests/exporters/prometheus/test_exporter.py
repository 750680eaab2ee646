from __future__ import annotations

import subprocess
from datetime import timedelta

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from taskflow_otel.bus import ObserverBus
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.otel.tracing import TracingExporter
from taskflow_otel.exporters.prometheus.exporter import DEFAULT_MAX_LABEL_VALUES, PrometheusExporter
from taskflow_otel.exporters.prometheus.exposition import MetricsFormat, negotiate
from taskflow_otel.exporters.prometheus.values import from_json, merge, to_json
from taskflow_otel.exporters.telemetry import Telemetry
from taskflow_otel.model.status import Transition
from tests.exporters.story import START, Story
from tests.servers import find_binary

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


@pytest.fixture
def exporter() -> PrometheusExporter:
    clock = iter(range(0, 10_000, 2))
    return PrometheusExporter(clock=lambda: next(clock))


@pytest.fixture
def bus(exporter: PrometheusExporter) -> ObserverBus:
    return ObserverBus([exporter])


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
    assert scraped.value("taskflow_task_run_duration_seconds_count", **task) == 2
    assert scraped.value("taskflow_task_run_duration_seconds_sum", **task) == 2
    assert scraped.value("taskflow_task_run_duration_seconds_bucket", **task, le="0.5") == 0
    assert scraped.value("taskflow_task_run_duration_seconds_bucket", **task, le="1.0") == 2
    assert scraped.value("taskflow_task_queue_wait_seconds_sum", **task) == 0.5
    assert scraped.value("taskflow_task_end_to_end_seconds_sum", **task) == 5
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
def test_recovered_tasks_are_counted_by_what_became_of_them(
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
    assert len(exporter._cells) == 11


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
    assert len(exporter._cells) <= 25
    assert len(exporter._exceptions) <= 25
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


@pytest.mark.parametrize(
    "buckets",
    [{"nonsense": (1,)}, *({"taskflow_task_run_duration_seconds": b} for b in ((), (2, 1), (0, 1), (1, float("inf"))))],
    ids=["unknown histogram", "none", "decreasing", "zero", "infinite"],
)
def test_unusable_buckets_are_refused(buckets: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigurationError, match="buckets"):
        Telemetry(buckets=buckets)


@pytest.mark.parametrize(
    "options",
    [{"propagation": "no"}, {"max_label_values": 0}, {"registry": object()}, {"tracer_provider": 1}],
    ids=lambda options: next(iter(options)),
)
def test_a_wrong_telemetry_option_is_named(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Telemetry(**options)  # type: ignore[arg-type]


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
    assert scraped.value("taskflow_backend_operation_duration_seconds_bucket", **labels, le="0.0025") == 0
    assert scraped.value("taskflow_backend_operation_duration_seconds_bucket", **labels, le="0.005") == 1


def test_several_scrapes_within_a_second_render_once() -> None:
    now = [0.0]
    exporter = PrometheusExporter(clock=lambda: now[0])
    bus = ObserverBus([exporter])
    assert Scraped(exporter).value("taskflow_tasks_enqueued_total") is None
    Story(bus).created().enqueued()
    assert Scraped(exporter).value("taskflow_tasks_enqueued_total") is None
    assert Scraped(exporter, OPENMETRICS).value("taskflow_tasks_enqueued_total") == 1, "each format has its own"
    now[0] = 1.0
    assert Scraped(exporter).value("taskflow_tasks_enqueued_total") == 1


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
        elif not spec.on:
            exporter.add_source(spec.name, lambda labels=labels: [(labels, 1.0)]) if spec.type != "info" else None


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


def test_processes_behind_one_port_report_their_sum(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    peer = PrometheusExporter(buckets={"taskflow_task_run_duration_seconds": (0.7, 3.0)})
    later = Story(ObserverBus([peer]))
    later.moment += timedelta(hours=1)
    later.created().enqueued().started().succeeded()
    Story(ObserverBus([peer]), "other").created().enqueued().started()
    Story(bus).created().enqueued().started().succeeded()
    exporter.set_peers([from_json(to_json(peer.snapshot()))])
    scraped = Scraped(exporter)
    assert scraped.value("taskflow_tasks_finished_total", task="send_email", outcome="success") == 2
    assert scraped.value("taskflow_tasks_running", task="other") == 1
    assert scraped.value("taskflow_build_info") == 1
    latest = scraped.value("taskflow_task_last_success_timestamp_seconds", task="send_email")
    assert latest == START.timestamp() + 3600 + 3
    task = {"task": "send_email"}
    assert scraped.value("taskflow_task_run_duration_seconds_count", **task) == 2
    assert scraped.value("taskflow_task_run_duration_seconds_bucket", **task, le="1.0") == 1
    assert scraped.value("taskflow_task_run_duration_seconds_bucket", **task, le="5.0") == 2


def test_merging_leaves_the_merged_untouched(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    Story(bus).created().enqueued().started().succeeded()
    one, other = exporter.snapshot(), exporter.snapshot()
    before = to_json(one), to_json(other)
    merge([one, other, {"made_up": {("x",): 1.0}}])
    assert (to_json(one), to_json(other)) == before


@pytest.mark.parametrize("data", [{"a": 1}, {"a": [[1]]}, {"a": [[[], {"counts": []}]]}], ids=str)
def test_a_damaged_snapshot_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a metrics snapshot"):
        from_json(data)


def test_a_duration_that_nobody_measured_is_taken_from_the_times(
    exporter: PrometheusExporter, bus: ObserverBus
) -> None:
    story = Story(bus).created().enqueued().started()
    record = replace(story.record)
    story.tell(Transition.SUCCEEDED, duration=None, end_time=(record.start_time or START) + timedelta(seconds=3))
    assert Scraped(exporter).value("taskflow_task_run_duration_seconds_sum") == 3
