from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import PROBES, USER, Directory


async def test_everything_under_the_path_asks_who_is_there(app_of: Callable[..., FastAPI], client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    document = (await client.get("/openapi.json")).json()
    documented = [(method, path) for path, methods in document["paths"].items() for method in methods]
    documented = [(method, path) for method, path in documented if path not in PROBES]
    assert ("get", "/tasks/events") in documented
    assert ("delete", "/tasks/history") in documented
    for method, path in [*documented, ("get", "/tasks/"), ("post", "/tasks/logout")]:
        answer = await client.request(
            method,
            path.format(task_id="x", operation_id="x", fingerprint="0" * 16, name="default"),
            json={"task_ids": ["x"]},
        )
        assert answer.status_code == 401, (method, path)
        assert (answer.json()["detail"], answer.json()["status"]) == ("log in first", 401)


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic YWJj", "Basic /////w==", "Bearer x", "nonsense"])
async def test_damaged_credentials_are_no_credentials(client_of: ClientOf, header: str) -> None:
    answer = await client_of(auth=USER).get("/tasks", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


async def test_a_viewer_looks_and_an_operator_acts(client_of: ClientOf, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=Directory())
    assert (await client.get("/tasks/session", auth=("vic", "right"))).json()["can_act"] is False
    for user, code in (("vic", 403), ("ada", 202)):
        answer = await client.post(f"/tasks/{record.task_id}/retry", auth=(user, "right"))
        assert answer.status_code == code


async def test_read_only_refuses_every_action(client_of: ClientOf, engine: House) -> None:
    record = engine.put(make_record())
    client = client_of(read_only=True)
    document = (await client.get("/openapi.json")).json()
    actions = [(m, p) for p, methods in document["paths"].items() for m in methods if m != "get"]
    assert len(actions) == 16
    for method, path in actions:
        address = path.format(task_id=record.task_id, operation_id="x", fingerprint="0" * 16, name="mail")
        answer = await client.request(method, address, json={"task_ids": [record.task_id]} if "bulk" in path else {})
        assert answer.status_code == 403, address
    assert not engine.queues["mail"].paused
    assert list(engine.records) == [record.task_id]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://test"}, 202),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://test"}, 403),
        ({"Origin": "http://TEST:80"}, 202),
        ({"Origin": "http://test:8000"}, 403),
        ({"Origin": "https://public.example", "X-Forwarded-Host": "public.example"}, 403),
        ({"Origin": "https://app", "X-Forwarded-Host": "app", "X-Forwarded-Proto": "https, http"}, 202),
        ({"Origin": "https://app", "Forwarded": "proto=https;host=app"}, 202),
    ],
)
@pytest.mark.parametrize("auth", [None, USER])
async def test_a_page_of_another_site_cannot_act_through_the_browser(
    client_of: ClientOf, engine: House, auth: Any, headers: dict[str, str], code: int
) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    answer = await client_of(auth=auth).post(f"/tasks/{record.task_id}/retry", headers=headers, auth=auth)
    assert answer.status_code == code


async def test_the_metrics_open_to_their_token_and_nothing_else_does(client_of: ClientOf) -> None:
    client = client_of(auth=USER, metrics_token="scrape-me")
    bearer = {"Authorization": "Bearer scrape-me"}
    assert (await client.get("/tasks/metrics", headers=bearer)).status_code == 200
    assert (await client.get("/tasks/metrics", auth=USER)).status_code == 200
    assert (await client.get("/tasks/metrics", headers={"Authorization": "Bearer no"})).status_code == 401
    assert (await client.get("/tasks", headers=bearer)).status_code == 401


async def test_a_metrics_token_guards_the_metrics_of_an_open_administration_too(client_of: ClientOf) -> None:
    client = client_of(metrics_token="scrape-me")
    assert (await client.get("/tasks/metrics")).status_code == 401
    assert (await client.get("/tasks")).status_code == 200
