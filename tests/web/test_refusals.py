"""Routes that change something refuse what they do not know, instead of doing more than was meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel.model.status import TaskStatus
from tests.web.house import House, make_record


def changing(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, address and operation of each route that changes something."""
    return [
        (method.upper(), path.format(task_id="x", operation_id="x", fingerprint="0" * 16, name="mail"), operation)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if method != "get"
    ]


@pytest.fixture
def finished(engine: House) -> list[str]:
    """Two finished tasks, which a request that is refused leaves alone."""
    return [engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(2)]


async def test_a_parameter_that_no_route_knows_is_refused_by_each_that_changes_something(
    app_of: Callable[..., FastAPI], client: httpx.AsyncClient, engine: House, finished: list[str]
) -> None:
    routes = changing(app_of())
    assert len(routes) >= 11
    for method, path, _ in routes:
        answer = await client.request(method, path, params={"nonsense": "1"}, json={})
        assert answer.status_code == 422, (method, path)
        assert "'nonsense'" in answer.json()["detail"]
    assert list(engine.records) == finished


async def test_a_body_is_refused_by_each_route_that_takes_none(
    app_of: Callable[..., FastAPI], client: httpx.AsyncClient, engine: House, finished: list[str]
) -> None:
    for method, path, operation in changing(app_of()):
        for body in (b'{"status":"failed"}', b"[1]", b"status=failed", b"\xff", b"[" * 100_000):
            answer = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
            # FastAPI answers 400 to a body that is too deep to be parsed.
            refused = {400, 422} if "requestBody" in operation else {422}
            assert answer.status_code in refused, (method, path, body[:20])
    assert list(engine.records) == finished


@pytest.mark.parametrize(
    ("method", "query", "names"),
    [
        ("POST", "retry-failed?sinec=1s", "did you mean 'since'?"),
        ("POST", "retry-failed?func_name=", "func_name is empty"),
        ("POST", "retry-failed?since=%20", "since is empty"),
        ("POST", "retry-failed?since=6h&since=1s", "since is given 2 times"),
        ("DELETE", "history?befor=7d", "did you mean 'before'?"),
        ("DELETE", "history?before=", "before is empty"),
        ("POST", "queues/mail/pause?for=6h", "it takes reason"),
    ],
)
async def test_a_mistake_in_a_filter_selects_nothing_and_is_named(
    client: httpx.AsyncClient, engine: House, finished: list[str], method: str, query: str, names: str
) -> None:
    answer = await client.request(method, f"/tasks/{query}")
    assert answer.status_code == 422
    assert names in answer.json()["detail"]
    assert list(engine.records) == finished
    assert not engine.queues["mail"].paused


async def test_an_empty_object_is_no_body(client: httpx.AsyncClient, engine: House) -> None:
    assert (await client.post("/tasks/queues/mail/pause", json={})).status_code == 200
    assert engine.queues["mail"].paused
