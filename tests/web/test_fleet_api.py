from __future__ import annotations

import httpx
import pytest

from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web import fleet_api
from tests.web.stand_ins import INSTANCE, FakeEngine, make_record

AGGREGATE = {
    "total", "pending", "running", "success", "failed", "cancelled", "interrupted", "rejected",
    "success_rate", "avg_duration_seconds", "exact",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/tasks/stats", "/tasks/metrics"])
async def test_the_aggregate_counts_every_state(client: httpx.AsyncClient, engine: FakeEngine, path: str) -> None:
    for status in (TaskStatus.SUCCESS, TaskStatus.SUCCESS, TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.RUNNING):
        engine.put(make_record(status=status, duration=2.0))
    stats = (await client.get(path, headers={"Accept": "application/json"})).json()
    assert set(stats) == AGGREGATE
    assert (stats["total"], stats["success"], stats["running"]) == (5, 3, 1)
    assert (stats["success_rate"], stats["avg_duration_seconds"]) == (0.75, 2.0)


async def test_an_aggregate_that_was_not_counted_to_its_end_says_so(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"])
async def test_metrics_are_text_unless_json_is_asked_for(client: httpx.AsyncClient, accept: str) -> None:
    answer = await client.get("/tasks/metrics", headers={"Accept": accept})
    assert answer.text == "taskflow_up 1\n"
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_queues_show_their_load_and_limits(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.queues["mail"].ready, engine.queues["mail"].oldest_ready_age = 3, 1.5
    default, mail = (await client.get("/tasks/queues")).json()
    assert (default["name"], default["oldest_ready_age_seconds"]) == ("default", None)
    assert (mail["ready"], mail["max_size"], mail["oldest_ready_age_seconds"]) == (3, 50, 1.5)


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


async def test_a_queue_is_paused_and_resumed(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.post("/tasks/queues/mail/pause")).json()["paused"] is True
    assert engine.queues["mail"].paused
    assert (await client.post("/tasks/queues/mail/resume")).json()["paused"] is False


@pytest.mark.parametrize(("method", "suffix"), [("PATCH", ""), ("POST", "/pause"), ("POST", "/resume")])
async def test_an_unknown_queue_is_not_found(client: httpx.AsyncClient, method: str, suffix: str) -> None:
    answer = await client.request(method, f"/tasks/queues/nope{suffix}", json={})
    assert answer.status_code == 404
    assert "nope" in answer.json()["detail"]


async def test_instances_say_which_one_answers(client: httpx.AsyncClient) -> None:
    (instance,) = (await client.get("/tasks/instances")).json()
    assert (instance["instance_id"], instance["answering"], instance["state"]) == (INSTANCE, True, "alive")


async def test_health_is_ok_while_the_manager_runs(client: httpx.AsyncClient) -> None:
    answer = await client.get("/tasks/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reasons": [], "instance": INSTANCE})


@pytest.mark.parametrize("state", ["new", "draining", "stopped"])
async def test_health_names_the_state_of_a_manager_that_does_not_run(
    client: httpx.AsyncClient, engine: FakeEngine, state: str
) -> None:
    engine.state = state  # type: ignore[assignment]  # by its text
    answer = await client.get("/tasks/health")
    assert answer.status_code == 503
    assert state in answer.json()["reasons"][0]


async def test_health_tells_of_a_backend_that_can_only_be_read(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.backend_failing = True
    answer = await client.get("/tasks/health")
    assert answer.status_code == 503
    assert "not written" in answer.json()["reasons"][0]


async def test_health_names_the_trouble_of_the_backend(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.failure = BackendUnavailableError("connection refused")
    answer = await client.get("/tasks/health")
    assert answer.status_code == 503
    assert "connection refused" in answer.json()["reasons"][0]
