"""Each route against each kind of caller: who gets in, and what the others are answered.

The routes come from the OpenAPI document. A route without a rule here fails the test.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI, Header, HTTPException
from starlette.types import Message

from taskflow_otel import ApiToken
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.web.auth import Role, Scope
from taskflow_otel.web.sessions import COOKIE, Sessions
from taskflow_otel.wire.problems import PROBLEMS
from tests.clocks import HandClock
from tests.web.house import House
from tests.web.users import Directory

KEY = "k" * 32
METRICS_TOKEN = "scrape-me"


class Rule(NamedTuple):
    """Who may call a route (`anyone`, `viewer`, `operator`, `scraper`), and the status that they get."""

    access: str
    status: int
    body: Any = None


UNKNOWN = new_task_id()
RULES = {
    "get_liveness": Rule("anyone", 200),
    "get_readiness": Rule("anyone", 200),
    "get_health": Rule("viewer", 200),
    "get_session": Rule("viewer", 200),
    "get_metrics": Rule("scraper", 200),
    "get_stats": Rule("viewer", 200),
    "get_overview": Rule("viewer", 200),
    "list_objectives": Rule("viewer", 200),
    "get_events": Rule("viewer", 200),
    "list_queues": Rule("viewer", 200),
    "list_instances": Rule("viewer", 200),
    "list_releases": Rule("viewer", 200),
    "list_audit": Rule("viewer", 200),
    "list_operations": Rule("viewer", 200),
    "get_operation": Rule("viewer", 404),
    "list_results": Rule("viewer", 404),
    "list_schedules": Rule("viewer", 200),
    "list_tasks": Rule("viewer", 200),
    "get_trace": Rule("viewer", 404),
    "list_types": Rule("viewer", 200),
    "get_type": Rule("viewer", 404),
    "list_failures": Rule("viewer", 200),
    "get_failure": Rule("viewer", 404),
    "ignore_failure": Rule("operator", 404),
    "show_failure": Rule("operator", 404),
    "get_task": Rule("viewer", 404),
    "get_arguments": Rule("viewer", 404),
    "list_running": Rule("viewer", 200),
    "retry_task": Rule("operator", 404),
    "cancel_task": Rule("operator", 404),
    "ask_for_stack": Rule("operator", 404),
    "bulk_retry": Rule("operator", 202, {"task_ids": [UNKNOWN]}),
    "bulk_cancel": Rule("operator", 202, {"task_ids": [UNKNOWN]}),
    "retry_failed": Rule("operator", 202),
    "delete_history": Rule("operator", 200),
    "pause_queue": Rule("operator", 200),
    "resume_queue": Rule("operator", 200),
    "configure_queue": Rule("operator", 200, {"max_size": 7}),
    "tick": Rule("operator", 200),
    "run_schedule": Rule("operator", 202),
    "pause_schedule": Rule("operator", 200),
    "resume_schedule": Rule("operator", 200),
}
"""By the name of the operation."""


@dataclass(frozen=True)
class Caller:
    """A kind of caller: its headers, the administration that it calls, and the statuses of those who do not get in."""

    name: str
    refused: dict[str, int] = field(default_factory=dict)
    """By the access of the route; what is missing here gets in."""
    headers: dict[str, str] | Callable[[FastAPI], Awaitable[dict[str, str]]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    guesses: bool = False
    """Whether it is someone else with each request, as those are who try out names and passwords."""


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


async def session(app: FastAPI, user: str) -> dict[str, str]:
    """The headers of a session, with the proof of its own page."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/tasks/login", data={"username": user, "password": "right"})
        assert answer.status_code == 303
        proof = (await client.get("/tasks/session")).json()["csrf_token"]
        return {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}", "X-CSRF-Token": proof}


def without_proof(headers: dict[str, str]) -> dict[str, str]:
    return {"Cookie": headers["Cookie"]}


async def of_viewer(app: FastAPI) -> dict[str, str]:
    return await session(app, "vic")


async def of_operator(app: FastAPI) -> dict[str, str]:
    return await session(app, "ada")


async def unproved(app: FastAPI) -> dict[str, str]:
    return without_proof(await session(app, "ada"))


async def wrongly_proved(app: FastAPI) -> dict[str, str]:
    return {**await session(app, "ada"), "X-CSRF-Token": "x"}


async def proved_by_another(app: FastAPI) -> dict[str, str]:
    return {**await session(app, "ada"), "X-CSRF-Token": (await session(app, "ada"))["X-CSRF-Token"]}


async def forged(app: FastAPI) -> dict[str, str]:
    headers = await session(app, "ada")
    return {**headers, "Cookie": headers["Cookie"][:-2] + "~~"}


async def expired(app: FastAPI) -> dict[str, str]:
    headers = await session(app, "ada")
    long_ago = Sessions(KEY, 3_600, audience="/tasks", clock=HandClock(1.0))
    token, _ = long_ago.issue("ada", Role.OPERATOR, credential="right", generation="")
    return {**headers, "Cookie": f"{COOKIE}={token}"}


async def ended(app: FastAPI) -> dict[str, str]:
    headers = await session(app, "ada")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/tasks/logout", headers=headers)).status_code == 204
    return headers


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name.ljust(40, name[0] if name != 'expired' else 'x')}"}


async def user_of_the_application(x_user: str = Header("")) -> str:
    """The sign-in of an application."""
    if not x_user:
        raise HTTPException(401, detail="sign in")
    return x_user


STRANGER = {"viewer": 401, "operator": 401, "scraper": 401}
LOOKS_ONLY = {"operator": 403}
TOKENS = [
    ApiToken("read", "read".ljust(40, "r"), {"read"}),
    ApiToken("metrics", "metrics".ljust(40, "m"), {"metrics"}),
    ApiToken("every", "every".ljust(40, "e"), set(Scope)),
    ApiToken("expired", "expired".ljust(40, "x"), set(Scope), expires_at=datetime(2026, 1, 1, tzinfo=UTC)),
]
CLOSED = {"auth": Directory(), "secret_key": KEY, "metrics_token": METRICS_TOKEN, "tokens": TOKENS}
OWN = {"auth": user_of_the_application, "role": lambda user: user}
ADA, VIC = basic("ada", "right"), basic("vic", "right")
CALLERS = [
    Caller("anonymous", STRANGER, options=CLOSED),
    Caller("wrong password", STRANGER, options=CLOSED, guesses=True),
    Caller("damaged credentials", STRANGER, {"Authorization": "Basic !!!"}, CLOSED),
    Caller("unknown token", STRANGER, {"Authorization": "Bearer none"}, CLOSED),
    Caller("metrics token", {"viewer": 401, "operator": 401}, {"Authorization": f"Bearer {METRICS_TOKEN}"}, CLOSED),
    Caller("forged session", STRANGER, forged, CLOSED),
    Caller("expired session", STRANGER, expired, CLOSED),
    Caller("session that was ended", STRANGER, ended, CLOSED),
    Caller("token that reads", LOOKS_ONLY, bearer("read"), CLOSED),
    Caller("token for the metrics", {"viewer": 403, "operator": 403}, bearer("metrics"), CLOSED),
    Caller("token for all actions", {}, bearer("every"), CLOSED),
    Caller("token for all actions, from another site", {}, {**bearer("every"), "Origin": "null"}, CLOSED),
    Caller("expired token", STRANGER, bearer("expired"), CLOSED),
    Caller("viewer of the application", LOOKS_ONLY, {"X-User": "viewer"}, OWN),
    Caller("operator of the application", {}, {"X-User": "operator"}, OWN),
    Caller("nobody of the application", STRANGER, options=OWN),
    Caller("viewer", LOOKS_ONLY, VIC, CLOSED),
    Caller("session of a viewer", LOOKS_ONLY, of_viewer, CLOSED),
    Caller("operator", {}, ADA, CLOSED),
    Caller("operator on another site", LOOKS_ONLY, {**ADA, "Origin": "http://evil.example"}, CLOSED),
    Caller("operator through another site's page", LOOKS_ONLY, {**ADA, "Sec-Fetch-Site": "cross-site"}, CLOSED),
    Caller("session without proof", LOOKS_ONLY, unproved, CLOSED),
    Caller("session with a wrong proof", LOOKS_ONLY, wrongly_proved, CLOSED),
    Caller("session with the proof of another one", LOOKS_ONLY, proved_by_another, CLOSED),
    Caller("session with its proof", {}, of_operator, CLOSED),
    Caller("operator of a read-only administration", LOOKS_ONLY, ADA, {**CLOSED, "read_only": True}),
    Caller("anyone at an open administration", {}),
    Caller("another site at an open administration", LOOKS_ONLY, {"Origin": "null"}),
    Caller("anyone at an open read-only administration", LOOKS_ONLY, options={"read_only": True}),
    Caller("anyone at an open administration with a metrics token", {"scraper": 401}, options={"metrics_token": "m"}),
]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    app: FastAPI, method: str, path: str, headers: dict[str, str], body: Any, *, client: str = "127.0.0.1"
) -> Answer:
    """The answer to one request; of a stream that has no end, its beginning."""
    content = b"" if body is None else json.dumps(body).encode()
    sent: list[Message] = []
    begun = asyncio.Event()

    asked = iter([None])

    async def receive() -> Message:
        for _ in asked:
            return {"type": "http.request", "body": content, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.start" or not message.get("more_body"):
            begun.set()

    fields = {
        "host": "test",
        "content-type": "application/json",
        **{name.lower(): value for name, value in headers.items()},
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
        "client": (client, 1),
        "server": ("test", 80),
    }
    running = asyncio.create_task(app(scope, receive, send))
    waiting = asyncio.create_task(begun.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    start = sent[0]
    found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    if found.get("content-type", "").startswith("text/event-stream"):
        running.cancel()
    await asyncio.wait({running, waiting})
    return Answer(start["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


def operations(app: FastAPI) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Method, path, name and description of each documented operation."""
    return [
        (method.upper(), path, operation["operationId"].removeprefix("tasks_"), operation)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_has_a_rule_and_every_rule_a_route(app_of: Callable[..., FastAPI]) -> None:
    assert {name for _, _, name, _ in operations(app_of())} == RULES.keys()


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
async def test_each_route_answers_a_caller_by_its_rule(
    app_of: Callable[..., FastAPI], engine: House, caller: Caller
) -> None:
    engine.schedule("nightly", every=3_600)
    app = app_of(**caller.options)
    given = await caller.headers(app) if callable(caller.headers) else caller.headers
    wrong: list[Any] = []
    for number, (method, path, name, operation) in enumerate(operations(app)):
        rule = RULES[name]
        address = path.format(
            task_id=UNKNOWN,
            operation_id=UNKNOWN,
            fingerprint="0" * 16,
            name="nightly" if "schedule" in path else "mail",
        )
        headers = basic(f"user {number}", "wrong") if caller.guesses else given
        answer = await ask(app, method, address, headers, rule.body, client=f"10.{number}.0.1")
        expected = caller.refused.get(rule.access, rule.status)
        if answer.status != expected:
            wrong.append((method, path, answer.status, expected))
        assert str(answer.status) in operation["responses"], (method, path, answer.status)
        if answer.status >= 400:
            check_problem(answer, (method, path))
    assert wrong == []


def check_problem(answer: Answer, what: object) -> None:
    """A problem body of a kind that the documentation lists, with the headers of every answer."""
    assert answer.headers["content-type"] == "application/problem+json", what
    assert answer.headers["x-content-type-options"] == "nosniff", what
    assert answer.headers["cache-control"] == "no-store", what
    body = json.loads(answer.body)
    address, _, name = body["type"].partition("#")
    assert (address, PROBLEMS[name].status) == ("/tasks/problems", answer.status), what
    assert (body["status"], body["title"]) == (answer.status, PROBLEMS[name].title), what
    assert body["detail"], what


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
async def test_the_document_says_for_each_route_how_to_log_in(app_of: Callable[..., FastAPI], closed: bool) -> None:
    document = app_of(**(CLOSED if closed else {})).openapi()
    people = {"session", "basic", "api_token"} if closed else set()
    expected = {
        "anyone": set(),
        "viewer": people,
        "operator": people,
        "scraper": people | ({"metrics_token"} if closed else set()),
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            rule = RULES[operation["operationId"].removeprefix("tasks_")]
            found = {name for one in operation.get("security", ()) for name in one}
            assert found == expected[rule.access], operation["operationId"]
    schemes = document["components"].get("securitySchemes", {})
    assert {name: scheme["type"] for name, scheme in schemes.items()} == (
        {"session": "apiKey", "basic": "http", "api_token": "http", "metrics_token": "http"} if closed else {}
    )


async def test_an_address_that_no_route_has_is_answered_after_the_login(app_of: Callable[..., FastAPI]) -> None:
    app = app_of(**CLOSED)
    # With a slash more or less, an address is another one.
    slashed = [
        f"{path.format(task_id=UNKNOWN, operation_id=UNKNOWN, fingerprint='0' * 16, name='n')}/"
        for _, path, *_ in operations(app)
    ]
    nowhere = {"/tasks/a/b", "/tasks/x/y/retry", *slashed} - {"/tasks/"}
    for method in ("GET", "POST", "DELETE", "BREW"):
        for path in sorted(nowhere):
            for headers, status in (({}, 401), (VIC, 404)):
                answer = await ask(app, method, path, headers, None)
                # The name of a queue, a schedule or a type may end with a slash, or be missing.
                named = path.startswith(("/tasks/queues/", "/tasks/schedules/", "/tasks/types/"))
                expected = {401, 403, 404, 405} if named else {status}
                assert answer.status in expected, (method, path, answer)
                check_problem(answer, (method, path))


def test_the_statuses_of_a_route_follow_from_what_it_is(app_of: Callable[..., FastAPI]) -> None:
    conflicts = {"retry_task", "cancel_task", "ask_for_stack"}
    for method, path, name, operation in operations(app_of(**CLOSED)):
        access = RULES[name].access
        if access == "anyone":
            continue
        expected = {401, 403, 413, 421, 422, 429, 503}
        if "{" in path:
            expected.add(404)
        if "requestBody" in operation:
            expected.add(400)
        if name in conflicts:
            expected.add(409)
        found = {int(status): answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert found.keys() == expected, (method, path)
        for status, answer in found.items():
            if (name, status) != ("get_health", 503):
                assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
            if status == 429:
                assert "Retry-After" in answer["headers"]


async def test_the_page_about_problems_leads_everyone_to_each_of_them(app_of: Callable[..., FastAPI]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app_of(**CLOSED)), base_url="http://test") as client:
        page = await client.get("/tasks/problems")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    for name in PROBLEMS:
        assert f'<section id="{name}">' in page.text
