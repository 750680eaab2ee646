"""A real Prometheus scrapes the running app, and PromQL gives the right numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.procs import AppProcess
from tests.servers import PrometheusServer
from tests.waiting import wait_until

RUNS = {"succeed": 7, "recover": 3, "fail": 2}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppProcess]:
    with AppProcess("tests.apps.traced_app:app", tmp_path, env={"APP_DB": str(tmp_path / "tasks.db")}) as process:
        yield process


@pytest.fixture
def prometheus(app: AppProcess) -> Iterator[PrometheusServer]:
    config = f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: app
    metrics_path: /tasks/metrics
    static_configs: [{{targets: ["127.0.0.1:{app.port}"]}}]
"""
    with PrometheusServer(config) as server:
        yield server


def query(prometheus: PrometheusServer, expression: str) -> dict[tuple[str, ...], float]:
    """The instant vector of an expression: label values, in the order of their names, to value."""
    answer = httpx.get(f"{prometheus.url}/api/v1/query", params={"query": expression}).raise_for_status().json()
    return {
        tuple(value for _, value in sorted(series["metric"].items())): float(series["value"][1])
        for series in answer["data"]["result"]
    }


def exemplars(prometheus: PrometheusServer, expression: str) -> list[dict[str, Any]]:
    """Every exemplar of the last minutes below an expression."""
    now = time.time()
    window: dict[str, str | float] = {"query": expression, "start": now - 600, "end": now + 60}
    answer = httpx.get(f"{prometheus.url}/api/v1/query_exemplars", params=window).raise_for_status().json()
    return [exemplar for series in answer["data"] for exemplar in series["exemplars"]]


def test_promql_counts_what_ran_and_exemplars_lead_to_its_traces(app: AppProcess, prometheus: PrometheusServer) -> None:
    with httpx.Client(base_url=app.url) as client:
        for name, times in RUNS.items():
            for _ in range(times):
                client.post(f"/run/{name}").raise_for_status()
        finished = 'sum by (task, outcome) (taskflow_tasks_finished_total{job="app"}) > 0'
        expected = {("success", "succeed"): 7.0, ("success", "recover"): 3.0, ("failed", "fail"): 2.0}
        wait_until(lambda: query(prometheus, finished) == expected, "the counts of all finished tasks")

        assert query(prometheus, "sum by (task) (taskflow_tasks_enqueued_total)") == {
            (name,): float(times) for name, times in RUNS.items()
        }
        assert query(prometheus, "sum by (task) (taskflow_task_retries_total) > 0") == {("recover",): 3.0}
        assert query(prometheus, "sum(taskflow_tasks_running)") == {(): 0.0}
        assert query(prometheus, "sum(taskflow_task_run_duration_seconds_count)") == {(): 15.0}

        traces = {task["trace_id"] for task in client.get("/tasks").raise_for_status().json()}
        wait_until(lambda: bool(exemplars(prometheus, "taskflow_task_run_duration_seconds_bucket")), "an exemplar")
        seen = {
            exemplar["labels"]["trace_id"]
            for exemplar in exemplars(prometheus, "taskflow_task_run_duration_seconds_bucket")
        }
        assert seen <= traces
