"""Addresses that no route has, methods that an address does not have, and errors that nobody expected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from taskflow_otel.admin import TaskAdmin
from tests.web.house import House
from tests.web.passive import alerts
from tests.web.users import USER


class SignedOutError(Exception):
    """Raised by the sign-in of an application."""


@pytest.fixture(params=["plain", "root_path", "mounted"])
def mounted(request: pytest.FixtureRequest, engine: House) -> tuple[httpx.ASGITransport, str]:
    """The way to an application with the administration, and the address of the administration."""
    app = FastAPI()
    TaskAdmin(app, engine.manager)
    if request.param == "root_path":
        return httpx.ASGITransport(app, raise_app_exceptions=False, root_path="/prefix"), "/prefix/tasks"
    if request.param == "plain":
        return httpx.ASGITransport(app, raise_app_exceptions=False), "/tasks"
    outer = FastAPI()
    outer.mount("/outer", app)
    return httpx.ASGITransport(outer, raise_app_exceptions=False), "/outer/tasks"


@asynccontextmanager
async def calling(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and type of a problem, which is complete and has the headers of every answer."""
    assert alerts(answer) == []
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["title"]
    assert body["detail"]
    return answer.status_code, body["type"]


async def test_own_errors_are_problems_with_their_headers_behind_any_prefix(
    mounted: tuple[httpx.ASGITransport, str], engine: House
) -> None:
    transport, address = mounted
    # The pattern of a mount does not match a line break: such an address is the outer application's.
    broken = () if address == "/outer/tasks" else ("/a%0A/b%0A", "/queues/%0A/pause")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/a/b", "/queue/x/y", "/%00/%00", *broken):
            assert problem(await client.get(address + path))[1] == f"{address}/problems#not-found"
        assert problem(await client.post(f"{address}/stats")) == (405, f"{address}/problems#method-not-allowed")
        engine.backend.unreadable = RuntimeError("postgres://user:secret@db.internal/")
        failed = await client.get(address)
        assert problem(failed) == (500, f"{address}/problems#server-error")
        assert "secret" not in failed.text
        page = await client.get(f"{address}/problems")
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


async def test_an_address_with_a_slash_too_many_does_not_exist_and_is_not_answered_before_the_host_is_known(
    mounted: tuple[httpx.ASGITransport, str],
) -> None:
    transport, address = mounted
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/stats/", "/instances/", "/livez/", "/login/", "/static/main.js/", "/bulk-retry/", "/a/b/"):
            for method in ("GET", "POST"):
                answer = await client.request(method, address + path)
                assert problem(answer) == (404, f"{address}/problems#not-found"), path
                assert "leave out the slash at its end" in answer.json()["detail"]
                answer = await client.request(method, address + path, headers={"Host": "evil.example"})
                assert problem(answer) == (421, f"{address}/problems#wrong-host"), path
        assert (await client.get(f"{address}/")).status_code == 200
        for host, status in (("test", 308), ("evil.example", 421)):
            led = await client.get(f"{address}/dashboard/?view=tasks", headers={"Host": host})
            assert (led.status_code, alerts(led)) == (status, [])
            assert led.headers.get("Location") == ("../dashboard?view=tasks" if status == 308 else None)


async def test_an_unexpected_error_reaches_the_server_which_logs_it(
    app_of: Callable[..., FastAPI], engine: House
) -> None:
    engine.backend.unreadable = RuntimeError("a bug")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app_of()), base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="a bug"):
            await client.get("/tasks")


async def test_an_error_of_the_application_is_answered_by_its_own_handler(engine: House) -> None:
    async def own(request: Request, exc: Exception) -> PlainTextResponse:
        return PlainTextResponse("own", 418)

    app = FastAPI(exception_handlers={SignedOutError: own})

    def sign_in() -> None:
        raise SignedOutError

    TaskAdmin(app, engine.manager, auth=sign_in, role=lambda user: "viewer")
    async with calling(app) as client:
        assert (await client.get("/tasks")).status_code == 418


async def test_addresses_of_the_application_stay_its_own(engine: House) -> None:
    app = FastAPI()
    TaskAdmin(app, engine.manager)

    @app.get("/tasks/mine/of/the/application")
    @app.get("/own/")
    @app.get("/other")
    async def mine() -> str:
        return "mine"

    async with calling(app) as client:
        assert (await client.get("/tasks/mine/of/the/application")).json() == "mine"
        assert (await client.get("/elsewhere")).json() == {"detail": "Not Found"}
        assert (await client.get("/taskset/of/others")).json() == {"detail": "Not Found"}
        assert (await client.get("/own")).headers["Location"] == "http://test/own/"
        assert (await client.get("/other/")).headers["Location"] == "http://test/other"


async def test_two_administrations_answer_for_their_own_addresses(engine: House) -> None:
    app = FastAPI()
    TaskAdmin(app, engine.manager, path="/one", auth=USER)
    TaskAdmin(app, engine.manager, path="/two")
    async with calling(app) as client:
        assert problem(await client.get("/one/a/b")) == (401, "/one/problems#login-required")
        assert problem(await client.get("/two/a/b")) == (404, "/two/problems#not-found")
        operations = [one["operationId"] for methods in app.openapi()["paths"].values() for one in methods.values()]
    assert {"one_list_tasks", "two_list_tasks"} <= set(operations)
    assert len(set(operations)) == len(operations)
