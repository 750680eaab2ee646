"""Errors of the library as answers of the API, and of nothing else."""

from __future__ import annotations

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse

from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import BackendUnavailableError
from tests.web.house import House


async def test_a_backend_that_is_down_is_answered_with_503_and_a_sentence(
    client: httpx.AsyncClient, engine: House
) -> None:
    engine.backend.unreadable = BackendUnavailableError("the database does not answer")
    answer = await client.get("/tasks")
    assert (answer.status_code, answer.json()) == (503, {"detail": "the database does not answer"})
    assert answer.headers["Retry-After"] == "1"


async def test_the_error_handlers_of_the_application_are_left_to_the_application(engine: House) -> None:
    app = FastAPI()

    @app.exception_handler(HTTPException)
    def own(request: Request, exc: HTTPException) -> PlainTextResponse:
        return PlainTextResponse("own", 418)

    TaskAdmin(app, engine.manager)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/tasks?since=x")).status_code == 422
