"""Exemplars come in the order of their times: a real Prometheus keeps each of them, of several workers on one port."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.procs import AppProcess
from tests.servers import PrometheusServer
from tests.waiting import wait_until

SCRAPES = 8


def own_metrics(prometheus: PrometheusServer) -> dict[str, float]:
    """What the server says about itself, without labels."""
    text = httpx.get(f"{prometheus.url}/metrics", timeout=30).raise_for_status().text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def value(prometheus: PrometheusServer, expression: str) -> float:
    """The one value of an expression; 0 without data."""
    answer = httpx.get(f"{prometheus.url}/api/v1/query", params={"query": expression}, timeout=30).raise_for_status()
    found = answer.json()["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


def test_a_prometheus_drops_no_exemplar(tmp_path: Path) -> None:
    environment = {"APP_DB": str(tmp_path / "tasks.db"), "TMPDIR": str(tmp_path)}
    enough = threading.Event()
    with AppProcess("tests.apps.traced_app:app", tmp_path, env=environment, arguments=["--workers", "2"]) as app:
        config = f"""
global: {{scrape_interval: 200ms}}
scrape_configs:
  - job_name: app
    metrics_path: /tasks/metrics
    static_configs: [{{targets: ["127.0.0.1:{app.port}"]}}]
"""

        def load() -> None:
            while not enough.is_set():
                for name in ("succeed", "recover", "fail"):
                    with suppress(httpx.TransportError):
                        # Over a new connection each time, so that any worker may run it.
                        httpx.post(f"{app.url}/run/{name}", timeout=30)

        with PrometheusServer(config) as prometheus:
            threads = [threading.Thread(target=load) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                wait_until(
                    lambda: value(prometheus, 'sum_over_time(up{job="app"}[5m])') >= SCRAPES,
                    "the scrapes",
                    interval=0.2,
                )
                wait_until(
                    lambda: own_metrics(prometheus)["prometheus_tsdb_exemplar_series_with_exemplars_in_storage"] > 5,
                    "exemplars of several buckets",
                )
            finally:
                enough.set()
                for thread in threads:
                    thread.join()
            found = own_metrics(prometheus)
    assert found["prometheus_tsdb_exemplar_exemplars_appended_total"] > SCRAPES
    assert found["prometheus_tsdb_exemplar_exemplars_in_storage"] > SCRAPES
    assert found["prometheus_tsdb_exemplar_out_of_order_exemplars_total"] == 0
