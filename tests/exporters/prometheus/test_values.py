"""The values of metrics: snapshots of processes are added up, and damaged ones are refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Elsewhere, Histogram, from_json, merge, to_json
from taskflow_otel.model.trace import SpanRef
from tests.exporters.prometheus.conftest import OPENMETRICS, Scraped
from tests.exporters.story import START, Story


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


def exemplar_of(histogram: Histogram) -> str | None:
    """The trace of the exemplar in the first bucket."""
    found = histogram.exemplars[0]
    return None if found is None else found.trace_id


def test_an_exemplar_is_replaced_only_by_a_later_one() -> None:
    histogram = Histogram((1.0,))
    for trace, seconds in (("b" * 32, 2), ("a" * 32, 1), ("c" * 32, 3)):
        histogram.observe_in(0.5, SpanRef(trace, "1" * 16, 1), START + timedelta(seconds=seconds))
        assert exemplar_of(histogram) != "a" * 32
    assert exemplar_of(histogram) == "c" * 32
    assert histogram.counts == [3, 0]


def test_exemplars_that_are_not_newer_than_another_answer_are_left_out(exporter: PrometheusExporter) -> None:
    for number, name in enumerate(("taskflow_task_run_duration_seconds", "taskflow_task_end_to_end_seconds")):
        histogram = Histogram((1.0,))
        histogram.observe_in(0.5, SpanRef("a" * 32, "1" * 16, 1), START + timedelta(seconds=number))
        exporter.set_peers((), {name: {("t",): histogram}}, exemplars_after=START.timestamp())
        shown = [sample for sample in Scraped(exporter, OPENMETRICS).samples if sample.exemplar is not None]
        assert len(shown) == number


def test_counts_of_others_have_a_label_of_their_own(exporter: PrometheusExporter, bus: ObserverBus) -> None:
    gone = PrometheusExporter()
    Story(ObserverBus([gone])).created().enqueued().started().succeeded()
    Story(bus).created().enqueued().started().succeeded()
    counts = from_json(to_json(gone.snapshot()))
    exporter.set_peers((), elsewhere=Elsewhere("x", (counts, counts)))
    for scraped in (Scraped(exporter), Scraped(exporter, OPENMETRICS)):
        for name in ("taskflow_tasks_finished_total", "taskflow_task_run_duration_seconds_count"):
            assert scraped.value(name) == 3
            assert scraped.value(name, elsewhere="x") == 2


def test_what_a_process_of_another_version_counts_by_other_labels_is_left_out() -> None:
    own = PrometheusExporter(release="1.4.2").snapshot()
    merged = merge([own, {"taskflow_build_info": {("0.1.0",): 1.0}}])
    [labels] = merged["taskflow_build_info"]
    assert labels[1] == "1.4.2"
