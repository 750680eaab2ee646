"""The headers of every answer, whatever it is: a result, an error, a list, the metrics, the page, the live stream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import ClientOf, Served
from tests.web.house import House, make_record
from tests.web.passive import RULES, alerts
from tests.web.routes import every_route
from tests.web.users import FORM, USER, Directory

STREAM = "/tasks/events"


def routes(app: FastAPI, task_id: str) -> list[tuple[str, str]]:
    """Each route of the administration, whether it is documented or not, and some addresses that it does not have."""
    more = [("PUT", "/tasks/stats"), ("PATCH", "/tasks"), ("GET", "/tasks/static/main.js"), ("HEAD", "/tasks")]
    return [
        (method, path.format(task_id=task_id, operation_id="x", fingerprint="0" * 16, name="mail"))
        for method, path in [*every_route(app), *more]
        # It does not end by itself; there is a test of its own.
        if path != STREAM
    ]


def not_started() -> httpx.AsyncClient:
    app = FastAPI()
    TaskAdmin(app, TaskManager())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    "situation", ["works", "https", "down", "new", "anonymous", "viewer", "read-only", "another site", "another name"]
)
async def test_a_passive_scan_of_every_route_finds_nothing(
    app_of: Callable[..., FastAPI], client_of: ClientOf, engine: House, situation: str
) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    auth = {"anonymous": USER, "https": USER, "viewer": Directory()}.get(situation)
    base_url = "https://test" if situation == "https" else "http://test"
    client = client_of(base_url, auth=auth, read_only=situation == "read-only")
    match situation:
        case "down":
            engine.backend.unreadable = BackendUnavailableError("down")
        case "new":
            client = not_started()
        case "https":
            client.auth = httpx.BasicAuth(*USER)
        case "viewer":
            client.auth = httpx.BasicAuth("vic", "right")
        case "another site":
            client.headers["Sec-Fetch-Site"] = "cross-site"
        case "another name":
            client.headers["Host"] = "evil.example"
        case _:
            pass
    found: list[tuple[object, ...]] = []
    for method, path in routes(app_of(), record.task_id):
        for body in ({}, {"nonsense": 1}):
            answer = await client.request(method, path, json=body)
            found += [(method, path, answer.status_code, alert) for alert in alerts(answer)]
    for accept in ("application/json", "text/plain", "application/openmetrics-text"):
        found += [(accept, alert) for alert in alerts(await client.get("/tasks/metrics", headers={"Accept": accept}))]
    assert found == []


async def test_the_live_stream_has_the_headers_too(
    app_of: Callable[..., FastAPI], serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    async with (
        serving(app_of()) as served,
        httpx.AsyncClient() as client,
        client.stream("GET", served.url + STREAM) as answer,
    ):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        answer._content = b""  # for the rules that read the body: this one does not end
        assert alerts(answer) == []


class Broken:
    """Users that cannot be looked up."""

    def authenticate(self, username: str, password: str) -> str | None:
        raise RuntimeError('the directory is down: File "ldap.py", line 3, in bind')


SENT = {"headers": {"Content-Type": "application/json"}}
ERRORS: dict[str, tuple[int, dict[str, Any], str, str, dict[str, Any]]] = {
    "no login": (401, {"auth": USER}, "GET", "/tasks", {}),
    "wrong password": (401, {"auth": USER}, "POST", "/tasks/login", {"data": FORM | {"password": "x"}}),
    "wrong role": (403, {"auth": Directory()}, "DELETE", "/tasks/history", {"auth": ("vic", "right")}),
    "read-only": (403, {"read_only": True}, "DELETE", "/tasks/history", {}),
    "another site": (403, {}, "DELETE", "/tasks/history", {"headers": {"Origin": "http://evil.example"}}),
    "no such task": (404, {}, "GET", "/tasks/none", {}),
    "no such file": (404, {}, "GET", "/tasks/static/none.js", {}),
    "no such method": (405, {}, "PUT", "/tasks/stats", {}),
    "wrong state": (409, {}, "POST", "/tasks/{done}/cancel", {}),
    "too large": (413, {}, "POST", "/tasks/bulk-retry", {"content": b"x" * 300_000, **SENT}),
    "another name": (421, {}, "GET", "/tasks", {"headers": {"Host": "evil.example"}}),
    "wrong parameter": (422, {}, "GET", "/tasks?since=soon", {}),
    "wrong body": (422, {}, "POST", "/tasks/bulk-retry", {"json": {"nonsense": 1}}),
    "not JSON": (422, {}, "POST", "/tasks/bulk-retry", {"content": b"{", **SENT}),
    "not text": (400, {}, "POST", "/tasks/bulk-retry", {"content": b"\xff", **SENT}),
    "broken": (500, {"auth": Broken()}, "GET", "/tasks", {"auth": ("ada", "right")}),
    "unreachable": (503, {}, "GET", "/tasks/{done}", {}),
}


@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_of_each_kind_passes_the_scan(app_of: Callable[..., FastAPI], engine: House, kind: str) -> None:
    status, options, method, path, sent = ERRORS[kind]
    record = engine.put(make_record(status=TaskStatus.SUCCESS))
    if kind == "unreachable":
        engine.backend.unreadable = BackendUnavailableError("down")
    transport = httpx.ASGITransport(app_of(**options), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.request(method, path.format(done=record.task_id), **sent)
    assert answer.status_code == status
    assert alerts(answer) == []


async def test_too_many_wrong_passwords_pass_the_scan(client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    answers = [await client.get("/tasks", auth=("ada", "wrong")) for _ in range(60)]
    assert answers[-1].status_code == 429
    assert [alert for answer in answers for alert in alerts(answer)] == []


async def test_an_error_of_the_server_is_answered_and_still_reaches_the_application(
    app_of: Callable[..., FastAPI],
) -> None:
    transport = httpx.ASGITransport(app_of(auth=Broken()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", auth=("ada", "right")) as client:
        with pytest.raises(RuntimeError, match="the directory is down"):
            await client.get("/tasks")


def test_the_scan_finds_what_it_looks_for() -> None:
    page = "<script>alert(1)</script> Traceback (most recent call last) 192.168.0.1"
    headers = {
        "Content-Type": "text/html",
        "Set-Cookie": "a=b",
        "X-Powered-By": "x",
        "Access-Control-Allow-Origin": "*",
    }
    answer = httpx.Response(200, text=page, headers=headers, request=httpx.Request("GET", "https://test/tasks"))
    redirect = httpx.Response(
        307, headers={"Location": "//evil.example"}, request=httpx.Request("GET", "https://test/tasks")
    )
    assert {*alerts(answer), *alerts(redirect)} == set(RULES)


async def test_a_method_that_an_address_does_not_have_is_405_with_those_that_it_has(client: httpx.AsyncClient) -> None:
    answer = await client.put("/tasks/health")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert "it takes GET" in answer.json()["detail"]
