"""A page of another site whose name points to this server reads and does nothing (DNS rebinding)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.hosts import Hosts
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import PROBES, USER

OUTSIDE = ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "tasks.local", "a@b", "evil%2eexample", "x y"]
UNOWNED = [
    "localhost", "LOCALHOST:8000", "localhost.", "app.localhost", "127.0.0.1:8000", "[::1]:8000", "10.1.2.3", "0.0.0.0",
    "192.168.1.20:80", "testserver", "app:8000", "my_app", "host.docker.internal:8000",
]  # fmt: skip


@pytest.mark.parametrize("host", OUTSIDE)
async def test_an_open_administration_does_not_answer_under_a_name_that_someone_outside_may_own(
    client_of: ClientOf, engine: House, host: str
) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of()
    document = (await client.get("/openapi.json")).json()
    documented = [(method, path) for path, methods in document["paths"].items() for method in methods]
    hidden = [
        ("get", "/tasks/dashboard"),
        ("get", "/tasks/static/main.js"),
        ("get", "/tasks/login"),
        ("get", "/tasks/"),
    ]
    for method, path in [*documented, *hidden, ("post", "/tasks/login")]:
        body = {"task_ids": [record.task_id]} if "bulk" in path else {}
        address = path.format(task_id=record.task_id, operation_id="x", fingerprint="0" * 16, name="mail")
        answer = await client.request(method, address, headers={"Host": host}, json=body)
        if path in PROBES:
            assert answer.status_code == 200, "load balancers have names of their own, and there is no detail"
            continue
        assert answer.status_code == 421, (method, path)
        assert "TaskAdmin(allowed_hosts=[" in answer.json()["detail"]
        assert record.task_id not in answer.text
    assert engine.records[record.task_id].retried_by is None


@pytest.mark.parametrize("host", UNOWNED)
async def test_it_answers_under_addresses_and_names_that_nobody_outside_owns(client_of: ClientOf, host: str) -> None:
    assert (await client_of().get("/tasks", headers={"Host": host})).status_code == 200


def test_it_answers_the_test_client() -> None:
    app = FastAPI()
    TaskAdmin(app, TaskManager())
    with TestClient(app) as client:
        assert client.get("/tasks").status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "Forwarded"])
async def test_the_name_that_a_proxy_received_counts_too(client_of: ClientOf, header: str) -> None:
    value = "host=evil.example" if header == "Forwarded" else "evil.example, app"
    answer = await client_of().get("/tasks", headers={"Host": "127.0.0.1:8000", header: value})
    assert answer.status_code == 421
    assert "'evil.example'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("allowed", "host", "code"),
    [
        (["tasks.example.com"], "tasks.example.com", 200),
        (["Tasks.Example.com."], "TASKS.example.com:8443", 200),
        (["tasks.example.com"], "localhost", 200),
        (["tasks.example.com"], "a.tasks.example.com", 421),
        (["tasks.example.com"], "example.com", 421),
        (["*.example.com"], "a.b.example.com", 200),
        (["*.example.com"], "example.com", 421),
        (["*.example.com"], "evilexample.com", 421),
        (["bücher.example"], "xn--bcher-kva.example", 200),
        (["::1", "[2001:db8::1]"], "[2001:db8:0::1]:80", 200),
        (["*"], "evil.example", 200),
        ([], "evil.example", 421),
        ((), "localhost", 200),
    ],
)
@pytest.mark.parametrize("auth", [None, USER])
async def test_the_names_that_are_given_are_answered_and_others_are_not(
    client_of: ClientOf, auth: Any, allowed: list[str], host: str, code: int
) -> None:
    client = client_of(auth=auth, allowed_hosts=allowed)
    assert (await client.get("/tasks", headers={"Host": host}, auth=auth)).status_code == code


async def test_an_administration_with_a_login_answers_under_every_name_unless_some_are_given(
    client_of: ClientOf,
) -> None:
    answer = await client_of(auth=USER).get("/tasks", headers={"Host": "tasks.example.com"}, auth=USER)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "allowed",
    ["tasks.example.com", ["http://tasks.example.com"], ["tasks.example.com:8000"], ["tasks.*.com"], ["*example.com"],
     [""], [" "], [None], 5, ["a b"], [".example.com"], ["*."], ["**.example.com"]],
)  # fmt: skip
def test_a_list_that_could_not_match_is_refused(allowed: Any) -> None:
    with pytest.raises(ConfigurationError, match="allowed_hosts"):
        Hosts(allowed, is_open=True)
