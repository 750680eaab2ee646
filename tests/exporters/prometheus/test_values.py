"""The values of metrics: snapshots of processes are added up, and damaged ones are refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import from_json, merge, to_json
from tests.exporters.prometheus.conftest import Scraped
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
