"""With any number of targets on one ledger, the sums in a real Prometheus are those of the ledger, after kills too."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboards.promql import SCOPE
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.cli.main import main
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Histogram, Snapshot
from taskflow_otel.metrics.targets import VARIABLE
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.replay import replay
from taskflow_otel.reconcile.compare import reconcile
from taskflow_otel.reconcile.totals import SAMPLES, Totals, prometheus_totals
from tests.dashboards.expressions import QUERIES, RULE_EXPRESSIONS
from tests.otlp import OtlpReceiver
from tests.procs import AppProcess
from tests.servers import PrometheusServer
from tests.waiting import wait_until

LAYOUTS = {"one port with four workers": (4,), "two ports with two workers": (2, 2), "three pods": (1, 1, 1)}
PER_REQUEST = 20
_SCOPE = ", ".join(re.escape(matcher) for matcher in SCOPE)
_COUNTER = re.compile(rf"(?:rate|increase)\((\w+)\{{{_SCOPE}\}}\[\$__\w+\]\)")

_SUMMED = re.compile(r"sum by \(([\w, ]+)\) \(\s*(?:rate|increase)\((\w+)(?:\{([^}]*)\})?\[\w+\]\)\s*\)")
"""A sum of counters in a rule: its labels, the metric and its matchers."""


@dataclass
class Fleet:
    """The apps, of which the last one is still to be started, and the Prometheus that scrapes them."""

    apps: list[AppProcess]
    spare: AppProcess
    prometheus: PrometheusServer
    database: Path
    receiver: OtlpReceiver

    def run(self, app: AppProcess, requests: int) -> None:
        """Have tasks run; a request that a kill breaks off is no fault."""

        def post(_: int) -> None:
            with suppress(httpx.TransportError):
                httpx.post(f"{app.url}/run/{PER_REQUEST}", timeout=60).raise_for_status()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(post, range(requests)))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant vector."""
        url = f"{self.prometheus.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        found: list[dict[str, Any]] = httpx.get(url, timeout=30).raise_for_status().json()["data"]["result"]
        return found

    def value(self, expression: str) -> float:
        """The one value of an expression; 0 without data."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    def risen(self, counter: str) -> float:
        """By how much a counter rose between samples, over all series.

        It is what `increase()` estimates; that also extrapolates to both ends of its window, and so
        for the few samples of a new target by more than any margin.
        """
        total = 0.0
        for series in self.query(f"{counter}[10m]"):
            values = [float(value) for _, value in series["values"]]
            total += sum(now - before if now >= before else now for before, now in pairwise(values))
        return total

    def totals(self) -> Totals:
        """The sums over all targets."""
        return prometheus_totals(lambda url: httpx.get(url, timeout=30).text, self.prometheus.url, 'job="app"')

    def differences(self) -> list[str]:
        """What differs between Prometheus and the ledger."""

        async def compare() -> list[str]:
            backend = SqliteBackend(self.database)
            await backend.open()
            try:
                return [str(one) for one in await reconcile(backend, totals={"prometheus": self.totals()})]
            finally:
                await backend.close()

        return asyncio.run(compare())

    def reconciled(self, since: datetime | None = None) -> str:
        """What the command says about Prometheus and about all that a collector has written; "" without a difference.

        With `since`, about the spans and log records of later tasks.
        """
        directory = self.database.parent
        signals = [self.receiver.write(directory / "signals.jsonl", "resourceSpans", "resourceLogs")]
        options = ["--since", since.isoformat()] if since is not None else ["--prometheus", self.prometheus.url]
        if since is None:
            options += ["--selector", 'job="app"']
            signals.append(self.receiver.write(directory / "metrics.jsonl", "resourceMetrics"))
        files = [part for path in signals for part in ("--export", str(path))]
        output = io.StringIO()
        with redirect_stdout(output):
            status = main(["reconcile", "--backend", str(self.database), *options, *files])
        assert (status == 0) is (output.getvalue() == "0 differences\n")
        return "" if status == 0 else output.getvalue()

    def replayed(self) -> Snapshot:
        """What one process would show that had seen every line of the ledger."""

        async def replay_all() -> Snapshot:
            counted = PrometheusExporter()
            backend = SqliteBackend(self.database)
            await backend.open()
            try:
                cursor: str | None = None
                while True:
                    page = await backend.page(TaskQuery(limit=500, cursor=cursor))
                    for event in (event for record in page.records for event in replay(record)):
                        counted.on_lifecycle(event)
                    cursor = page.next_cursor
                    if cursor is None:
                        return counted.snapshot()
            finally:
                await backend.close()

        return asyncio.run(replay_all())

    def living(self) -> dict[int, str]:
        """The living workers of all targets, by process id."""
        found = httpx.get(f"{self.apps[-1].url}/tasks/instances", timeout=30).raise_for_status().json()
        return {one["pid"]: one["instance_id"] for one in found if one["state"] == "alive"}

    def pending(self) -> int:
        """How many tasks have not ended."""
        stats = httpx.get(f"{self.apps[-1].url}/tasks/stats", timeout=30).raise_for_status().json()
        return int(stats["pending"] + stats["running"])


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(params=LAYOUTS)
def fleet(request: pytest.FixtureRequest, receiver: OtlpReceiver, tmp_path: Path) -> Iterator[Fleet]:
    workers = LAYOUTS[request.param]
    apps = []
    for number, count in enumerate((*workers, 1)):
        directory = tmp_path / str(number)
        directory.mkdir()
        # Pods are hosts of their own, which one machine can only pretend.
        name = {VARIABLE: f"pod-{number}"} if max(workers) == 1 else {}
        arguments = ["--workers", str(count)] if count > 1 else []
        env = {"APP_DB": str(tmp_path / "tasks.db"), **name, **receiver.environment}
        apps.append(AppProcess("tests.apps.workers_app:app", directory, env=env, arguments=arguments))
    targets = ", ".join(f'"127.0.0.1:{app.port}"' for app in apps)
    config = f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: app
    metrics_path: /tasks/metrics
    static_configs: [{{targets: [{targets}]}}]
"""
    with ExitStack() as stack:
        for app in apps[:-1]:
            stack.enter_context(app)
        stack.callback(apps[-1].kill)
        prometheus = stack.enter_context(PrometheusServer(config))
        yield Fleet(apps[:-1], apps[-1], prometheus, tmp_path / "tasks.db", receiver)


def test_sums_over_all_targets_are_those_of_the_ledger(fleet: Fleet) -> None:
    processes = 4 if len(fleet.apps) < 3 else 3
    wait_until(lambda: len(fleet.living()) == processes, "all workers", timeout=60)
    wait_until(lambda: fleet.value("sum(up)") == len(fleet.apps), "a scrape of each target")
    victim = fleet.apps[0]
    fleet.run(victim, 20)
    for app in fleet.apps[1:]:
        fleet.run(app, 5)
    wait_until(lambda: fleet.pending() == 0 and fleet.differences() == [], "the first counts", timeout=60)
    # Every span, log record and count of every worker has come to the collector too.
    wait_until(lambda: fleet.reconciled() == "", "agreement of the collector's files", timeout=60, interval=0.5)

    kill_one_worker_or_replace_the_pod(fleet)
    killed = datetime.now(UTC)
    for app in fleet.apps:
        fleet.run(app, 5)
    wait_until(lambda: len(fleet.living()) == processes, "the replacement", timeout=60)
    wait_until(lambda: fleet.pending() == 0 and fleet.differences() == [], "the counts of all", timeout=60)
    # What the killed process had not exported is lost; of all later tasks, nothing is.
    wait_until(lambda: fleet.reconciled(killed) == "", "agreement on the later tasks", timeout=60, interval=0.5)

    totals = fleet.totals()
    checked = 0
    for expression in QUERIES:
        # What a board shows as a rate, as a total.
        text = _COUNTER.sub(r'\1{job="app"}', expression.text)
        by = re.fullmatch(r'sum(?: by \(([\w, ]+)\))? \((\w+)\{job="app"\}\)', text)
        if by is None or by[2] not in SAMPLES or "instance" in (by[1] or ""):
            continue
        labels = by[1].split(", ") if by[1] else []
        shown = {tuple(s["metric"][name] for name in labels): float(s["value"][1]) for s in fleet.query(text)}
        assert shown == grouped(totals, by[2], labels), expression
        checked += 1
    assert checked > 3
    assert compare_rules(fleet, totals) > 10
    compare_waits_and_takeovers(fleet)
    assert fleet.value("sum(taskflow_instances)") == processes
    finished = fleet.value("sum(taskflow_tasks_finished_total)")
    assert finished == sum(value for (sample, _), value in totals.items() if sample == "taskflow_tasks_finished_total")
    # The counts of the dead are no new events: with them, this would be half as much again.
    assert finished / 2 < fleet.risen("taskflow_tasks_finished_total") <= finished
    each = fleet.value('sum(taskflow_executor_slots{executor="thread"})')
    assert each == processes * min(32, (os.cpu_count() or 1) + 4)
    assert fleet.value("sum(taskflow_tasks_running)") == fleet.value("sum(taskflow_queue_depth)") == 0
    assert fleet.value("min(taskflow_backend_up)") == 1


def compare_rules(fleet: Fleet, totals: Totals) -> int:
    """Compare what recording rules and alerts add up, as totals; return how many sums that were."""
    checked = 0
    for rule in RULE_EXPRESSIONS:
        for by, name, given in _SUMMED.findall(rule.text):
            labels = [label for label in by.split(", ") if label != "job"]
            if name not in SAMPLES or not set(labels) <= set(SAMPLES[name].labels):
                continue
            matchers = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', given)
            wanted = {
                (sample, values): value
                for (sample, values), value in totals.items()
                if sample == name and all(matches(SAMPLES[name].labels, values, *matcher) for matcher in matchers)
            }
            scope = ", ".join(filter(None, ['job="app"', given]))
            grouping = f" by ({', '.join(labels)})" if labels else ""
            found = fleet.query(f"sum{grouping} ({name}{{{scope}}})")
            shown = {tuple(s["metric"][label] for label in labels): float(s["value"][1]) for s in found}
            assert shown == grouped(wanted, name, labels), rule
            checked += 1
    return checked


def compare_waits_and_takeovers(fleet: Fleet) -> None:
    """Compare what the rules about slow starts and dead instances add up."""
    replayed = fleet.replayed()
    waits = [one for one in replayed["taskflow_task_queue_wait_seconds"].values() if isinstance(one, Histogram)]
    started = sum(sum(one.counts) for one in waits)
    soon = sum(sum(one.counts[: one.bounds.index(30.0) + 1]) for one in waits)
    scope = '{job="app"}'
    assert fleet.value(f"sum(taskflow_task_queue_wait_seconds_count{scope})") == started > 0
    rules = [one for one in RULE_EXPRESSIONS if one.where.startswith("job:taskflow_task_slow_starts:")]
    assert len(rules) == 7
    for rule in rules:
        # As totals: the parts that a rule looks at, of all time.
        text = re.sub(r"rate\((\w+(?:\{[^}]*\})?)\[\w+\]\)", r"\1", rule.text)
        assert text != rule.text
        assert fleet.value(text) == 1 - soon / started, rule
        [quick] = re.findall(r"taskflow_task_queue_wait_seconds_bucket(\{[^}]*\})", text)
        assert fleet.value(f"sum(taskflow_task_queue_wait_seconds_bucket{quick})") == soon, rule
    recovered = {labels: value for labels, value in replayed["taskflow_tasks_recovered_total"].items() if value}
    shown = fleet.query(f"sum by (reason) (taskflow_tasks_recovered_total{scope}) > 0")
    assert {(one["metric"]["reason"],): float(one["value"][1]) for one in shown} == recovered


def matches(names: Sequence[str], values: Sequence[str], label: str, operator: str, wanted: str) -> bool:
    """Whether a series has a label as a matcher wants it."""
    value = values[names.index(label)]
    if operator == "=~":
        return re.fullmatch(wanted, value) is not None
    return (value == wanted) is (operator == "=")


def kill_one_worker_or_replace_the_pod(fleet: Fleet) -> None:
    """SIGKILL, during work."""
    victim = fleet.apps[0]
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(fleet.run, victim, 5)
        if len(fleet.apps) == 3:
            victim.kill()
            fleet.apps[0] = fleet.spare
            fleet.spare.start()
        else:
            os.kill(min(pid for pid in fleet.living() if pid_of_parent(pid) == victim.pid), signal.SIGKILL)
        load.result()


def pid_of_parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def grouped(totals: Totals, sample: str, labels: Sequence[str]) -> dict[tuple[str, ...], float]:
    """The totals of one sample by some of its labels."""
    names, sums = SAMPLES[sample].labels, dict[tuple[str, ...], float]()
    for (name, values), value in totals.items():
        if name == sample:
            key = tuple(values[names.index(label)] for label in labels)
            sums[key] = sums.get(key, 0.0) + value
    return sums
