"""What is counted beside the transitions of tasks is right over two targets in a real Prometheus, after a kill too."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.exporters import signals
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import Source
from tests.otlp import OtlpReceiver
from tests.procs import AppProcess
from tests.servers import PrometheusServer
from tests.waiting import wait_until

SUMS = {
    "commit_failed": 'sum(taskflow_tasks_refused_total{reason="commit_failed"})',
    "queue_full": 'sum(taskflow_tasks_refused_total{reason="queue_full"})',
    "fenced": "sum(taskflow_fenced_writes_total)",
    "firings": 'sum(taskflow_schedule_lateness_seconds_count{schedule="fast"})',
    "enqueued by the schedule": 'sum(taskflow_tasks_enqueued_total{source="scheduled"})',
    "transactions": 'sum(taskflow_backend_operation_duration_seconds_count{operation="apply"})',
}


class Pair:
    """Two targets on one file."""

    def __init__(
        self, one: AppProcess, other: AppProcess, prometheus: PrometheusServer, receiver: OtlpReceiver
    ) -> None:
        self.one = one
        self.other = other
        self._prometheus = prometheus
        self._receiver = receiver
        self.told = Counter[str]()
        """What clients were told."""

    def post(self, app: AppProcess, path: str) -> httpx.Response:
        return httpx.post(f"{app.url}{path}", timeout=30)

    def tasks(self, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{self.other.url}/tasks", params=query, timeout=30).json()
        return found

    def differences(self) -> dict[str, tuple[float, float]]:
        """By name: what Prometheus says, and what is so, where it is not the same."""
        records = asyncio.run(stored(Path(self.one.env["APP_DB"])))
        fired = sum(one.source == Source.SCHEDULED for one in records)
        true = {
            **self.told,
            "fenced": sum(lost_attempts(one) for one in records),
            "firings": fired,
            "enqueued by the schedule": fired,
            "transactions": self._transactions(),
        }
        shown = {name: self._value(query) for name, query in SUMS.items()}
        return {name: (shown[name], true[name]) for name in SUMS if shown[name] != true[name]}

    def _value(self, query: str) -> float:
        answer = httpx.get(f"{self._prometheus.url}/api/v1/query", params={"query": query}, timeout=30)
        return float(answer.raise_for_status().json()["data"]["result"][0]["value"][1])

    def _transactions(self) -> int:
        """What every process has exported to the collector."""
        latest: dict[tuple[str, ...], int] = {}
        for message in list(self._receiver.messages):
            for resource in message.get("resourceMetrics", ()):
                source = json.dumps(resource["resource"], sort_keys=True)
                for scope in resource["scopeMetrics"]:
                    for metric in scope["metrics"]:
                        if metric["name"] == signals.otel_name(signals.BACKEND_OPERATION):
                            for point in metric["histogram"]["dataPoints"]:
                                labels = json.dumps(point["attributes"], sort_keys=True)
                                if '"apply"' in labels:
                                    latest[source, point["startTimeUnixNano"], labels] = int(point["count"])
        return sum(latest.values())


async def stored(path: Path) -> list[TaskRecord]:
    """Everything in the ledger."""
    backend = SqliteBackend(path)
    await backend.open()
    try:
        page = await backend.page(TaskQuery(limit=1_000))
        assert page.next_cursor is None
        return list(page.records)
    finally:
        await backend.close()


def lost_attempts(record: TaskRecord) -> int:
    """How many of its attempts ended because their process was declared dead."""
    return sum(end.reason == "process_died" for _, end in pairwise(record.timeline))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        receiver = stack.enter_context(OtlpReceiver())
        apps = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            env = {"APP_DB": str(tmp_path / "tasks.db"), **receiver.environment}
            apps.append(stack.enter_context(AppProcess("tests.apps.counted_app:app", tmp_path / name, env=env)))
        targets = ", ".join(f'"127.0.0.1:{app.port}"' for app in apps)
        prometheus = stack.enter_context(
            PrometheusServer(f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: app
    metrics_path: /tasks/metrics
    static_configs: [{{targets: [{targets}]}}]
""")
        )
        one, other = apps
        yield Pair(one, other, prometheus, receiver)


def test_refusals_firings_fenced_writes_and_operations_are_counted_once(pair: Pair) -> None:
    wait_until(lambda: len(pair.tasks(source="scheduled")) >= 5, "some firings")
    assert pair.post(pair.one, "/tasks/schedules/fast/pause").is_success

    for app in (pair.one, pair.other):
        pair.told["queue_full"] += pair.post(app, "/crowd/5").raise_for_status().json()
        assert pair.post(app, "/add/quick/2").is_success
    assert pair.told["queue_full"] > 0

    with closing(sqlite3.connect(pair.one.env["APP_DB"], isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        # At the same time: neither may be without a heartbeat for its whole lease.
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda app: pair.post(app, "/add/quick/3"), (pair.one, pair.other)))
        connection.execute("ROLLBACK")
    assert [answer.status_code for answer in answers] == [503, 503]
    pair.told["commit_failed"] = 6

    assert pair.post(pair.one, "/add/lasting/3").is_success
    wait_until(lambda: len(pair.tasks(func_name="lasting", status="running")) == 3, "three to run")
    os.kill(pair.one.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: len(pair.tasks(func_name="lasting", status="interrupted")) == 3, "the takeover", timeout=60)
    finally:
        os.kill(pair.one.pid, signal.SIGCONT)
    settled: dict[str, tuple[float, float]] = {}
    agreed = 0

    def agree() -> bool:
        nonlocal agreed
        settled.clear()
        settled.update(pair.differences())
        agreed = 0 if settled else agreed + 1
        return not settled

    try:
        # Several times: what a process has just counted is not stored yet.
        wait_until(lambda: agree() and agreed >= 10, "agreement", timeout=90, interval=0.5)
        # They have been stored, and outlive their process.
        pair.one.kill()
        wait_until(agree, "agreement after the kill", timeout=60, interval=0.5)
    except TimeoutError:
        pytest.fail(f"shown and true: {settled}")
