from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web import fleet_api
from tests.managers import Gate
from tests.waiting import eventually
from tests.web.house import INSTANCE, House, make_record, send_report

AGGREGATE = {
    "total", "pending", "running", "success", "failed", "cancelled", "interrupted", "rejected",
    "success_rate", "avg_duration_seconds", "exact",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/tasks/stats", "/tasks/metrics"])
async def test_the_aggregate_counts_every_state(client: httpx.AsyncClient, engine: House, path: str) -> None:
    for status in (TaskStatus.SUCCESS, TaskStatus.SUCCESS, TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.RUNNING):
        engine.put(make_record(status=status, duration=2.0))
    stats = (await client.get(path, headers={"Accept": "application/json"})).json()
    assert set(stats) == AGGREGATE
    assert (stats["total"], stats["success"], stats["running"]) == (5, 3, 1)
    assert (stats["success_rate"], stats["avg_duration_seconds"]) == (0.75, 2.0)


async def test_an_aggregate_that_was_not_counted_to_its_end_says_so(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_api, "COUNT_LIMIT", 2)
    for _ in range(3):
        engine.put(make_record())
    for query, total, exact in (("", 2, False), ("?exact=true", 3, True), ("?queue=other", 0, True)):
        stats = (await client.get(f"/tasks/stats{query}")).json()
        assert (stats["total"], stats["exact"]) == (total, exact)


async def test_the_aggregate_of_nothing_has_no_rate(client: httpx.AsyncClient) -> None:
    stats = (await client.get("/tasks/stats")).json()
    assert (stats["total"], stats["success_rate"], stats["avg_duration_seconds"]) == (0, None, None)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "text/plain"),
        ("text/plain", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
    ],
)
async def test_metrics_are_text_unless_json_is_asked_for(client: httpx.AsyncClient, accept: str, media: str) -> None:
    answer = await client.get("/tasks/metrics", headers={"Accept": accept})
    assert 'taskflow_queue_depth{queue="mail",state="ready"} 0.0' in answer.text.splitlines()
    assert answer.headers["Content-Type"].startswith(media)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip", "gzip"), ("deflate, GZIP;q=0.5", "gzip"), ("identity", None), ("gzip;q=0", None), ("", None)],
)
async def test_metrics_are_compressed_for_clients_that_take_that(
    client: httpx.AsyncClient, accepted: str, encoding: str | None
) -> None:
    answer = await client.get("/tasks/metrics", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("Content-Encoding") == encoding
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert 'taskflow_queue_depth{queue="mail",state="ready"} 0.0' in answer.text.splitlines()


async def test_queues_show_their_load_and_limits(client: httpx.AsyncClient, engine: House) -> None:
    await engine.manager.pause_queue("mail")
    for _ in range(3):
        await engine.manager.enqueue(send_report, queue="mail")
    default, mail = (await client.get("/tasks/queues")).json()
    assert (default["name"], default["oldest_ready_age_seconds"]) == ("default", None)
    assert (mail["ready"], mail["max_size"], mail["paused"]) == (3, 50, True)
    assert mail["oldest_ready_age_seconds"] > 0


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        ({"concurrency": 5}, (5, 50)),
        ({"max_size": None}, (2, None)),
        ({"concurrency": None, "max_size": 0}, (None, 0)),
        ({}, (2, 50)),
    ],
)
async def test_a_queues_limits_change_only_where_given(
    client: httpx.AsyncClient, body: dict[str, int | None], limits: tuple[int | None, int | None]
) -> None:
    queue = (await client.patch("/tasks/queues/mail", json=body)).json()
    assert (queue["concurrency"], queue["max_size"]) == limits


@pytest.mark.parametrize("body", [{"concurrency": 0}, {"max_size": -1}, {"concurrency": "x"}, {"speed": 3}])
async def test_limits_that_make_no_sense_are_refused(client: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await client.patch("/tasks/queues/mail", json=body)
    assert answer.status_code == 422
    assert next(iter(body)) in answer.json()["detail"]


async def test_a_queue_is_paused_and_resumed(client: httpx.AsyncClient, engine: House) -> None:
    assert (await client.post("/tasks/queues/mail/pause")).json()["paused"] is True
    assert engine.queues["mail"].paused
    assert (await client.post("/tasks/queues/mail/resume")).json()["paused"] is False


@pytest.mark.parametrize(("method", "suffix"), [("PATCH", ""), ("POST", "/pause"), ("POST", "/resume")])
async def test_an_unknown_queue_is_not_found(client: httpx.AsyncClient, method: str, suffix: str) -> None:
    answer = await client.request(method, f"/tasks/queues/nope{suffix}", json={})
    assert answer.status_code == 404
    assert "nope" in answer.json()["detail"]


async def test_instances_say_which_one_answers(client: httpx.AsyncClient, engine: House) -> None:
    instances = (await client.get("/tasks/instances")).json()
    assert {(each["instance_id"], each["answering"], each["state"]) for each in instances} == {
        (engine.manager.engine.instance_id, True, "alive"),
        (INSTANCE, False, "alive"),
    }


async def test_health_is_ok_while_the_manager_runs(client: httpx.AsyncClient, engine: House) -> None:
    answer = await client.get("/tasks/health")
    own = engine.manager.engine.instance_id
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reasons": [], "instance": own})


async def test_health_names_the_state_of_a_manager_that_does_not_run() -> None:
    app, manager, gate = FastAPI(), TaskManager(), Gate()
    TaskAdmin(app, manager)

    async def reason(client: httpx.AsyncClient) -> str:
        answer = await client.get("/tasks/health")
        assert answer.status_code == 503
        return str(answer.json()["reasons"][0])

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert "new" in await reason(client)
        await manager.startup()
        await manager.enqueue(gate.run)
        await gate.entered.wait()
        stopping = asyncio.create_task(manager.shutdown())
        await eventually(lambda: manager.engine.state == "draining", "the drain to begin")
        assert "draining" in await reason(client)
        gate.opened.set()
        await stopping
        assert "stopped" in await reason(client)


async def test_health_tells_of_a_backend_that_can_only_be_read(client: httpx.AsyncClient, engine: House) -> None:
    engine.backend.unwritable = BackendUnavailableError("the disk is full")
    await engine.manager.enqueue(send_report)
    await eventually(lambda: engine.manager.engine.vitals.backend_failing, "the failure of a write")
    answer = await client.get("/tasks/health")
    assert answer.status_code == 503
    assert "not written" in answer.json()["reasons"][0]


async def test_health_names_the_trouble_of_the_backend(client: httpx.AsyncClient, engine: House) -> None:
    engine.backend.unreadable = BackendUnavailableError("connection refused")
    answer = await client.get("/tasks/health")
    assert answer.status_code == 503
    assert "connection refused" in answer.json()["reasons"][0]
