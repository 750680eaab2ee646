"""While the backend is away, the page answers, says so, and counts what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.dashboards.expressions import RULES, STACK, sped_up
from tests.procs import AppProcess
from tests.servers import PostgresServer, PrometheusServer, RedisServer, Server
from tests.waiting import wait_until

OUTAGES: dict[str, tuple[type[Server], Callable[[Server], None], Callable[[Server], None]]] = {
    "redis hangs": (RedisServer, Server.pause, Server.resume),
    "postgres is down": (PostgresServer, Server.kill, Server.start),
}


OUTAGE_ALERTS = {"TaskflowBackendDown", "TaskflowCommitsRefused"}
LISTS = ("/tasks", "/tasks?status=failed", "/tasks/stats", "/tasks/instances")


@dataclass
class Outage:
    """A server of its own, and how it goes away and comes back."""

    server: Server
    begin: Callable[[], None]
    end: Callable[[], None]


@pytest.fixture(params=sorted(OUTAGES))
def outage(request: pytest.FixtureRequest) -> Iterator[Outage]:
    make, begin, end = OUTAGES[request.param]
    with make() as server:
        yield Outage(server, partial(begin, server), partial(end, server))


def page(app: AppProcess) -> dict[tuple[str, ...], float]:
    """What a scrape shows, by name and label values."""
    text = httpx.get(f"{app.url}/tasks/metrics", timeout=30).raise_for_status().text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def answers(app: AppProcess, path: str, times: int) -> set[int]:
    """The statuses of requests over a new connection each, so that every worker may answer."""
    return {httpx.get(f"{app.url}{path}", timeout=30).status_code for _ in range(times)}


def errors(shown: dict[tuple[str, ...], float]) -> set[str]:
    """The operations that have failed."""
    name = "taskflow_backend_operation_duration_seconds_count"
    return {operation for (found, *labels), value in shown.items() if found == name and value
            for _, operation, outcome in [labels] if outcome == "error"}  # fmt: skip


def test_workers_behind_one_port_count_on_while_the_backend_is_away(outage: Outage, tmp_path: Path) -> None:
    environment = {"APP_BACKEND": outage.server.name, "APP_URL": outage.server.fresh_url(), "TMPDIR": str(tmp_path)}
    refused = "taskflow_tasks_refused_total", "commit_failed"
    with AppProcess("tests.apps.forked_app:app", tmp_path, env=environment, arguments=["--workers", "2"]) as app:

        def workers() -> int:
            found = httpx.get(f"{app.url}/tasks/instances", timeout=30).raise_for_status().json()
            return sum(one["state"] == "alive" for one in found)

        wait_until(lambda: workers() == 2, "two workers")
        pids = {httpx.post(f"{app.url}/run", timeout=30).raise_for_status().json()["pid"] for _ in range(20)}
        assert len(pids) == 2
        # A worker that has not been scraped since the other one started does not know of it yet.
        wait_until(
            lambda: {page(app)[("taskflow_instances", "web")] for _ in range(8)} == {2}, "each to know of the other"
        )
        outage.begin()
        shown = [0.0]
        for _ in range(4):
            assert httpx.post(f"{app.url}/run", timeout=60).status_code == 503
            # Over a new connection each time, so that either may answer.
            shown += [page(app)[refused] for _ in range(3)]
        assert shown == sorted(shown)
        wait_until(lambda: page(app)[refused] == 4, "the refusals of both on one page")
        wait_until(lambda: answers(app, "/tasks/readyz", 6) == {503}, "both to be not ready")
        assert answers(app, "/tasks/livez", 6) == {200}
        assert page(app)["taskflow_backend_up", outage.server.name] == 0
        assert {page(app)[("taskflow_instances", "web")] for _ in range(4)} == {2}
        for path in LISTS:
            assert answers(app, path, 4) == {503}
        if outage.server.name == "redis":
            # It hangs, and nobody waits for its time limit of 5 s any more.
            detail = httpx.get(f"{app.url}/tasks", timeout=30).json()["detail"]
            assert "has not answered for 0.3 s" in detail
        outage.end()
        wait_until(lambda: answers(app, "/tasks/readyz", 6) == {200}, "both to be ready")
        wait_until(lambda: page(app)["taskflow_backend_up", outage.server.name] == 1, "the end of the outage")
        assert [page(app)[refused] for _ in range(4)] == [4] * 4


def test_an_outage_is_seen_on_the_page_and_by_the_alerts_while_it_lasts(outage: Outage, tmp_path: Path) -> None:
    server = outage.server
    url = server.fresh_url()
    environment = {"APP_BACKEND": server.name, "APP_URL": url}
    up = "taskflow_backend_up", server.name
    refused = "taskflow_tasks_refused_total", "commit_failed"
    with AppProcess("tests.apps.forked_app:app", tmp_path, env=environment) as app:
        # The shipped rules, with a minute in a second, so that an outage of some seconds is one of some minutes.
        files = {name: sped_up((STACK / "prometheus" / name).read_text()) for name in RULES}
        config = f"""
global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}
rule_files: [{", ".join(RULES)}]
scrape_configs:
  - job_name: app
    metrics_path: /tasks/metrics
    static_configs: [{{targets: ["127.0.0.1:{app.port}"]}}]
"""
        with PrometheusServer(config, files=files) as prometheus:

            def firing() -> set[str]:
                answer = httpx.get(f"{prometheus.url}/api/v1/alerts", timeout=30).raise_for_status().json()
                return {one["labels"]["alertname"] for one in answer["data"]["alerts"] if one["state"] == "firing"}

            def query(expression: str) -> list[float]:
                answer = httpx.get(f"{prometheus.url}/api/v1/query", params={"query": expression}, timeout=30)
                return [float(series["value"][1]) for series in answer.json()["data"]["result"]]

            assert httpx.post(f"{app.url}/run", timeout=30).status_code == 200
            shown = page(app)
            assert (shown[up], shown[refused], errors(shown)) == (1, 0, set())
            living = shown[("taskflow_instances", "web")]
            wait_until(lambda: query("min by (instance, backend) (taskflow_backend_up)") == [1], "a scrape")

            assert firing() == set()
            outage.begin()
            posts: list[int] = []
            over = threading.Event()

            def post() -> None:
                while not over.is_set():
                    posts.append(httpx.post(f"{app.url}/run", timeout=60).status_code)

            with ThreadPoolExecutor(4) as clients:
                posting = [clients.submit(post) for _ in range(4)]
                try:
                    wait_until(lambda: page(app)[up] == 0, "the news of the outage")
                    wait_until(lambda: {"beat", "settings"} <= errors(page(app)), "failed heartbeats and reads")
                    wait_until(lambda: firing() >= OUTAGE_ALERTS, "the alerts")
                    seen = firing()
                    assert httpx.get(f"{app.url}/tasks/livez", timeout=30).status_code == 200
                    assert query("up") == [1]
                finally:
                    over.set()
                for one in posting:
                    one.result()
            assert set(posts) == {503}
            shown = page(app)
            assert shown[refused] == len(posts)
            assert shown[("taskflow_instances", "web")] == living == 1
            # Only those that speak of a backend.
            assert seen <= {*OUTAGE_ALERTS, "TaskflowBackendErrors"}

            outage.end()
            wait_until(lambda: page(app)[up] == 1, "the end of the outage")
            assert httpx.post(f"{app.url}/run", timeout=30).status_code == 200
            wait_until(lambda: firing() == set(), "the end of the alerts")
            assert page(app)[refused] == len(posts)
