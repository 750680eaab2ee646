"""What a route takes: names with any character, and parameters that say one thing."""

from __future__ import annotations

import inspect
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import QueueConfig, TaskAdmin, TaskManager
from taskflow_otel.web.params import task_filter
from tests.managers import started
from tests.web.house import House, make_record, send_report

NAMES = ["a/b", "a:b", "a=b", "100%", "a%2Fb", "ä ö", "日本", "pause", "a/pause", "?x#y", "a+b", "..", "'\"<&>"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_queue_and_a_schedule_are_reached_by_any_name(name: str) -> None:
    manager, app = TaskManager(queues={name: QueueConfig(concurrency=2)}), FastAPI()
    TaskAdmin(app, manager)
    manager.schedule(name=name, every=3_600)(send_report)
    # A client resolves ".." as a folder unless its dots are escaped.
    segment = quote(name, safe="").replace("..", "%2E%2E")
    async with (
        started(manager),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/tasks") as client,
    ):
        for collection in ("queues", "schedules"):
            for action, paused in (("pause", True), ("resume", False)):
                answer = await client.post(f"/{collection}/{segment}/{action}")
                assert (answer.status_code, answer.json()["name"], answer.json()["paused"]) == (200, name, paused)
        assert (await client.patch(f"/queues/{segment}", json={"max_size": 3})).json()["max_size"] == 3
        assert (await client.post(f"/schedules/{segment}/run")).status_code == 202


FILTERS = list(inspect.signature(task_filter).parameters)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("name", FILTERS)
async def test_an_empty_filter_is_refused_wherever_it_is_taken(
    client: httpx.AsyncClient, engine: House, name: str, method: str
) -> None:
    paths = {
        "GET": ("", "/stats", "/failures"),
        "POST": ("/retry-failed", "/bulk-retry", "/bulk-cancel"),
        "DELETE": ("/history",),
    }
    kept = engine.put(make_record()).task_id
    for path in paths[method]:
        for value in ("", "%20"):
            answer = await client.request(method, f"/tasks{path}?{name}={value}")
            assert (answer.status_code, answer.json()["fields"]) == (422, [name]), path
            assert "is empty" in answer.json()["detail"]
    assert engine.backend.queries == []
    assert list(engine.records) == [kept]


async def test_a_filter_given_twice_is_refused_where_it_only_reads_too(client: httpx.AsyncClient) -> None:
    answer = await client.get("/tasks?status=failed&status=success")
    assert (answer.status_code, answer.json()["fields"]) == (422, ["status"])
    assert "given 2 times" in answer.json()["detail"]
