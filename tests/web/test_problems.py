"""Errors of the library as problems of the API, and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse

from taskflow_otel import TaskManager
from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import BackendError, BackendUnavailableError, QueueFullError, TaskArgumentError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.sse import EventStreams
from taskflow_otel.wire.problems import PROBLEMS
from tests.asgi import Exchange
from tests.web.house import House, make_record
from tests.web.routes import every_route
from tests.web.test_headers import Broken
from tests.web.users import USER, Directory


async def test_a_backend_that_is_down_is_answered_with_503_and_a_sentence(
    client: httpx.AsyncClient, engine: House
) -> None:
    engine.backend.unreadable = BackendUnavailableError("the database does not answer")
    answer = await client.get("/tasks")
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/tasks/problems#backend-unavailable",
        "title": "The backend is not available",
        "status": 503,
        "detail": "the database does not answer; try again later",
        "fields": [],
    }
    assert answer.headers["Retry-After"] == "1"


async def test_the_error_handlers_of_the_application_are_left_to_the_application(engine: House) -> None:
    app = FastAPI()

    @app.exception_handler(HTTPException)
    def own(request: Request, exc: HTTPException) -> PlainTextResponse:
        return PlainTextResponse("own", 418)

    TaskAdmin(app, engine.manager)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/tasks?since=x")).status_code == 422


@pytest.mark.parametrize(
    ("body", "says"),
    [('{"task_ids": [}', "at line 1, column 15"), ('{\n"task_ids":\n  nonsense}', "at line 3, column 3")],
)
async def test_a_body_that_is_not_json_says_where(client: httpx.AsyncClient, body: str, says: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/tasks/bulk-retry", content=body, headers=headers)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert answer.json()["type"] == "/tasks/problems#invalid-json"


async def test_the_wrong_fields_of_a_body_are_named(client: httpx.AsyncClient) -> None:
    answer = await client.patch("/tasks/queues/mail", json={"concurrency": 0, "speed": 3})
    assert set(answer.json()["fields"]) == {"concurrency", "speed"}


@pytest.mark.parametrize("name", ["\x00", "a\x00b", "\ud800", "\x00" * 1_000])
async def test_a_name_that_nothing_can_have_is_not_found_and_not_asked_of_the_backend(
    app_of: Callable[..., FastAPI], engine: House, name: str
) -> None:
    # In whatever way the backend is asked: its message names its server.
    engine.backend.unreadable = engine.backend.unwritable = BackendUnavailableError("db.internal:5432 refuses NUL")
    app = app_of()
    routes = [(method, path) for method, path in every_route(app) if "{" in path]
    assert len(routes) >= 12
    for method, path in routes:
        for field in re.findall(r"{(\w+)}", path):
            address = path.replace(f"{{{field}}}", name)
            exchange = await Exchange(app, address, method=method).run()
            assert exchange.status == 404, (method, path)
            assert "db.internal" not in str(exchange.json)
            assert f"there is nothing with the {field}" in exchange.json["detail"], (method, path)
            assert len(exchange.json["detail"]) < 500


JSON = {"headers": {"Content-Type": "application/json"}}
DETAILS: dict[str, tuple[dict[str, Any], str, str, dict[str, Any], str]] = {
    "unreadable-body": ({}, "POST", "/bulk-retry", {"content": b"\xff", **JSON}, "send JSON in UTF-8"),
    "login-required": ({"auth": USER}, "GET", "", {}, "log in"),
    "not-allowed": ({"auth": Directory()}, "DELETE", "/history", {"auth": ("vic", "right")}, "needs the role operator"),
    "read-only": ({"read_only": True}, "DELETE", "/history", {}, "use another one"),
    "untrusted-request": (
        {},
        "DELETE",
        "/history",
        {"headers": {"Origin": "null"}},
        "let the proxy keep the header Host",
    ),
    "not-found": ({}, "GET", "/a/b", {}, "the OpenAPI document lists them"),
    "task-not-found": ({}, "GET", "/none", {}, "look for it in the list"),
    "queue-not-found": ({}, "POST", "/queues/none/pause", {}, r"known: default, mail.*Declare it"),
    "schedule-not-found": ({}, "POST", "/schedules/none/run", {}, r"has the name of its function unless"),
    "operation-not-found": ({}, "GET", "/operations/none", {}, "look for it in the list"),
    "method-not-allowed": ({}, "PUT", "/stats", {}, "it takes GET"),
    "task-state": ({}, "POST", "/{done}/retry", {}, "use rerun=true"),
    "task-not-registered": ({}, "POST", "/{gone}/retry", {}, "Import the module that declares it"),
    "arguments-unreadable": ({}, "POST", "/schedules/nightly/run", {}, "send other arguments"),
    "body-too-large": ({}, "POST", "/bulk-retry", {"content": b"x" * 300_000, **JSON}, "send less at a time"),
    "wrong-host": (
        {},
        "GET",
        "",
        {"headers": {"Host": "evil.example"}},
        r"Allow the name with TaskAdmin\(allowed_hosts",
    ),
    "invalid-json": ({}, "POST", "/bulk-retry", {"content": b"{", **JSON}, "at line 1, column 2"),
    "invalid-input": ({}, "POST", "/retry-failed?sinec=1s", {}, "did you mean 'since'"),
    "too-many-logins": ({"auth": USER}, "GET", "", {"auth": ("ada", "wrong")}, r"try again in \d+ s"),
    "server-error": ({"auth": Broken()}, "GET", "", {"auth": ("ada", "x")}, "look for its traceback in the log"),
    "not-started": ({}, "GET", "", {}, "run the app's lifespan"),
    "backend-unavailable": ({}, "GET", "/{done}", {}, "try again later"),
    "queue-full": ({}, "POST", "/schedules/nightly/run", {}, "try again later, or raise max_size"),
    "too-many-streams": ({}, "GET", "/events", {}, "close some, or read the task list instead"),
}


def test_there_is_a_request_for_each_problem() -> None:
    assert DETAILS.keys() == PROBLEMS.keys()


@pytest.mark.parametrize("name", DETAILS)
async def test_each_problem_says_what_to_do(
    app_of: Callable[..., FastAPI], engine: House, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options, method, path, sent, says = DETAILS[name]
    done, gone = engine.put(make_record()), engine.put(make_record("gone", TaskStatus.FAILED))
    engine.schedule("nightly", every=3_600)
    app = app_of(**options)
    match name:
        case "not-started":
            TaskAdmin(app := FastAPI(), TaskManager())
        case "backend-unavailable":
            engine.backend.unreadable = BackendUnavailableError("the database does not answer")
        case "too-many-streams":
            monkeypatch.setattr(EventStreams, "enter", lambda streams, response: False)
        case "queue-full" | "arguments-unreadable":
            # The ways to them are in the tests of the engine.
            error = QueueFullError("mail", 3) if name == "queue-full" else TaskArgumentError("send other arguments")

            async def refuse(*_: object) -> None:
                raise error

            monkeypatch.setattr(engine.manager.engine.schedules, "run", refuse)
        case _:
            pass
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(10 if name == "too-many-logins" else 1):
            answer = await client.request(method, f"/tasks{path.format(done=done.task_id, gone=gone.task_id)}", **sent)
    body = answer.json()
    assert (body["type"].partition("#")[2], answer.status_code) == (name, PROBLEMS[name].status)
    assert re.search(says, body["detail"]), body["detail"]
    assert body["title"] == PROBLEMS[name].title


@pytest.mark.parametrize("body", [b"", b"{", b"[1, 2", b'{"task_ids": "\xff"}', b"\xff\xfe", b"nonsense"])
async def test_a_body_that_cannot_be_parsed_is_a_problem_that_says_what_to_do(
    client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.patch("/tasks/queues/mail", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert answer.json()["type"].partition("#")[2] in {"invalid-json", "invalid-input", "unreadable-body"}
    assert answer.json()["detail"]


async def test_the_authentication_of_an_application_may_answer_as_it_likes(engine: House) -> None:
    class Paid:
        def authenticate(self, username: str, password: str) -> str:
            raise HTTPException(402, detail="pay first", headers={"X-Price": "7"})

    app = FastAPI()
    TaskAdmin(app, engine.manager, auth=Paid())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/tasks", auth=("ada", "x"))
    assert (answer.status_code, answer.headers["X-Price"]) == (402, "7")
    assert (answer.json()["type"], answer.json()["title"]) == ("about:blank", "Payment Required")
    assert answer.json()["detail"] == "pay first"


@pytest.mark.parametrize(("method", "path"), [("GET", "/tasks"), ("GET", "/tasks/stats"), ("GET", "/tasks/some")])
async def test_what_the_backend_refuses_for_good_is_answered_with_422_and_no_invitation_to_try_again(
    client: httpx.AsyncClient, engine: House, method: str, path: str
) -> None:
    engine.backend.unreadable = BackendError("the database refuses a value", transient=False)
    answer = await client.request(method, path)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "the database refuses a value"
    assert "Retry-After" not in answer.headers


async def test_a_retry_whose_task_the_backend_refuses_for_good_is_answered_with_422(
    client: httpx.AsyncClient, engine: House
) -> None:
    failed = engine.put(make_record(status=TaskStatus.FAILED))
    engine.backend.unwritable = BackendError("a task may have 512 KiB", transient=False, reason="too large")
    answer = await client.post(f"/tasks/{failed.task_id}/retry")
    assert (answer.status_code, answer.json()["detail"]) == (422, "a task may have 512 KiB")
