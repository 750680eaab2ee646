"""Errors of the library as problems of the API, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse

from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from tests.asgi import Exchange
from tests.web.house import House, make_record


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
        "detail": "the database does not answer",
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


@pytest.mark.parametrize("name", ["\x00", "a\x00b", "\ud800"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tasks/{}"),
        ("POST", "/tasks/{}/retry"),
        ("POST", "/tasks/{}/cancel"),
        ("POST", "/tasks/queues/{}/pause"),
        ("POST", "/tasks/schedules/{}/run"),
    ],
)
async def test_a_name_that_nothing_can_have_is_not_found_and_not_asked_of_the_backend(
    app_of: Callable[..., FastAPI], engine: House, method: str, path: str, name: str
) -> None:
    engine.backend.unreadable = BackendUnavailableError("db.internal:5432 refuses NUL")
    exchange = await Exchange(app_of(), path.format(name), method=method).run()
    assert exchange.status == 404
    assert "there is nothing with the" in exchange.json["detail"]


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
