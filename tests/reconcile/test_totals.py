"""What pages, a Prometheus server and a collector say of the same counters, against the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from taskflow_otel import TaskManager, Telemetry
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.reconcile.compare import reconcile
from taskflow_otel.reconcile.otlp_file import read_exports
from taskflow_otel.reconcile.totals import prometheus_totals
from tests.managers import finish, started
from tests.reconcile.conftest import Watched
from tests.servers import PrometheusServer


async def test_counts_that_are_shown_for_others_are_added_to_those_of_the_page(watched: Watched) -> None:
    moved = watched.page.replace(
        'taskflow_tasks_enqueued_total{queue="default",source="manual",task="good"} 3.0',
        'taskflow_tasks_enqueued_total{queue="default",source="manual",task="good"} 1.0\n'
        'taskflow_tasks_enqueued_total{elsewhere="x",queue="default",source="manual",task="good"} 2.0',
    )
    assert moved != watched.page
    assert await reconcile(watched.backend, metrics={"page": moved}) == []


async def test_pages_of_all_targets_are_compared_together(watched: Watched) -> None:
    differences = await reconcile(watched.backend, metrics={"one": watched.page, "two": watched.page}, together=True)
    assert differences
    assert {one.witness for one in differences} == {"one + two"}
    empty = "# EOF\n"
    assert await reconcile(watched.backend, metrics={"one": watched.page, "two": empty}, together=True) == []


def answer(query: str) -> str:
    series = [{"metric": {"task": "job", "queue": "default"}, "value": [0, "2"]}] if "retries" in query else []
    return json.dumps({"data": {"result": series}})


async def test_the_sums_of_prometheus_are_a_witness(watched: Watched) -> None:
    totals = prometheus_totals(answer, "http://prometheus:9090/", 'job="shop"')
    assert totals == {("taskflow_task_retries_total", ("job", "default")): 2.0}
    differences = await reconcile(watched.backend, totals={"prometheus": totals})
    assert "prometheus: taskflow_task_retries_total{job, default}: expected 0, found 2" in map(str, differences)


def test_an_answer_that_is_not_data_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="does not answer queries as Prometheus does"):
        prometheus_totals(lambda _: "<html>", "http://grafana", "")


def test_a_real_prometheus_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    from taskflow_otel.cli.main import main

    async def prepare() -> None:
        backend = SqliteBackend(tmp_path / "tasks.db")
        await backend.open()
        await backend.close()

    asyncio.run(prepare())
    with PrometheusServer("global: {}") as prometheus:
        command = ["reconcile", "--backend", str(tmp_path / "tasks.db"), "--prometheus", prometheus.url]
        assert main([*command, "--selector", 'job="shop"']) == 0
        assert "0 differences" in capsys.readouterr().out
        assert main([*command, "--selector", "nonsense"]) != 0
    assert "cannot be read" in capsys.readouterr().err


async def test_metrics_that_a_collector_wrote_are_added_up_over_processes(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    exports = tmp_path / "metrics.jsonl"
    lines = []
    for life in range(2):
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        manager = TaskManager(snapshot_backend=backend, telemetry=Telemetry(meter_provider=provider))

        @manager.task(persist=True)
        async def job() -> None:
            """Nothing."""

        async with started(manager):
            for _ in range(2 + life):
                await finish(manager, await manager.enqueue(job))
                # Each export holds the totals of its process until then.
                data = reader.get_metrics_data()
                assert data is not None
                lines.append(camel(json.loads(data.to_json())))
        provider.shutdown()
    exports.write_text("\n".join(json.dumps(line) for line in lines))
    await backend.open()
    try:
        exported = read_exports([exports])
        assert exported.has_metrics
        assert await reconcile(backend, exported=exported) == []
        exports.write_text(json.dumps(lines[-1]))
        found = [str(one) for one in await reconcile(backend, exported=read_exports([exports]))]
    finally:
        await backend.close()
    assert "the exported metrics: taskflow_tasks_finished_total{job, default, success}: expected 5, found 3" in found


def camel(data: Any) -> Any:
    """What the SDK prints, in the form of OTLP/JSON that the collector writes."""
    if isinstance(data, list):
        return [camel(one) for one in data]
    if not isinstance(data, dict):
        return data
    found: dict[str, Any] = {}
    for key, value in data.items():
        head, *rest = key.split("_")
        name = head + "".join(word.capitalize() for word in rest)
        if key == "attributes":
            found[name] = [{"key": k, "value": {"stringValue": v}} for k, v in (value or {}).items()]
        elif key == "data":
            kind = "histogram" if any("bucket_counts" in point for point in value["data_points"]) else "sum"
            found[kind] = camel(value)
        elif key == "value":
            found["asDouble"] = value
        else:
            found[name] = camel(value)
    return found
