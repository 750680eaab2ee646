"""The headers of every answer, whatever it is: a result, an error, a list, the metrics, the page."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import USER

HIDDEN = [
    ("get", "/tasks/"),
    ("get", "/tasks/dashboard"),
    ("get", "/tasks/login"),
    ("post", "/tasks/login"),
    ("post", "/tasks/logout"),
    ("get", "/tasks/static/main.js"),
    ("get", "/tasks/static/none.js"),
    ("put", "/tasks/stats"),
    ("patch", "/tasks"),
]


def check(answer: httpx.Response) -> None:
    headers, what = answer.headers, (str(answer.request.url), answer.request.method, answer.status_code)
    assert headers["X-Content-Type-Options"] == "nosniff", what
    assert headers["X-Frame-Options"] == "DENY", what
    assert headers["Referrer-Policy"] == "same-origin", what
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], what
    assert "default-src 'none'" in headers["Content-Security-Policy"], what
    # A file of the page is the same for everyone: it may be kept, and is asked for again.
    kept = "/static/" in answer.request.url.path and answer.status_code in {200, 304}
    assert headers["Cache-Control"] == ("no-cache" if kept else "no-store"), what


def routes(app: FastAPI, task_id: str) -> list[tuple[str, str]]:
    documented = [
        (method, path.format(task_id=task_id, name="mail"))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        # It does not end by itself; the tests of the live stream look at its headers.
        if path != "/tasks/events"
    ]
    assert len(documented) >= 20
    return [*documented, *HIDDEN]


@pytest.mark.parametrize("situation", ["works", "down", "new", "anonymous", "read-only", "another site"])
async def test_every_answer_has_the_headers_of_its_kind(
    app_of: Callable[..., FastAPI], client_of: ClientOf, engine: House, situation: str
) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=USER if situation == "anonymous" else None, read_only=situation == "read-only")
    if situation == "down":
        engine.backend.unreadable = BackendUnavailableError("down")
    if situation == "new":
        never_started = FastAPI()
        TaskAdmin(never_started, TaskManager())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(never_started), base_url="http://test")
    if situation == "another site":
        client.headers["Sec-Fetch-Site"] = "cross-site"
    for method, path in routes(app_of(), record.task_id):
        for body in ({}, {"nonsense": 1}):
            check(await client.request(method, path, json=body))
    for accept in ("application/json", "text/plain"):
        check(await client.get("/tasks/metrics", headers={"Accept": accept}))


async def test_a_method_that_an_address_does_not_have_is_405_with_those_that_it_has(client: httpx.AsyncClient) -> None:
    answer = await client.put("/tasks/health")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert "it takes GET" in answer.json()["detail"]
