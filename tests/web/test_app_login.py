"""Sign-in by the application's own authentication, of any kind that FastAPI knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.responses import RedirectResponse
from fastapi.security import APIKeyHeader, APIKeyQuery, OAuth2PasswordBearer, SecurityScopes
from starlette.exceptions import HTTPException as StarletteHTTPException

from taskflow_otel import ApiToken, User
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web import fleet_api
from taskflow_otel.web.app_login import name_of
from taskflow_otel.web.sse import EventStreams
from tests.web.conftest import ClientOf, Served
from tests.web.fake_oidc import by_oidc, id_token
from tests.web.house import House, make_record
from tests.web.users import PROBES


@dataclass
class Account:
    """A user of the application."""

    username: str
    is_admin: bool = True
    hashed_password: str = "secret-hash"


ACCOUNTS = {"token-of-ada": Account("ada"), "token-of-vic": Account("vic", is_admin=False)}
bearer = OAuth2PasswordBearer(tokenUrl="token", scopes={"tasks": "See tasks"})


def account_of(token: Annotated[str, Depends(bearer)]) -> Account:
    if token not in ACCOUNTS:
        raise HTTPException(401, "not a token of ours", {"WWW-Authenticate": "Bearer"})
    return ACCOUNTS[token]


async def scoped(scopes: SecurityScopes, account: Annotated[Account, Depends(account_of)]) -> Account:
    if "forbidden" in scopes.scopes:
        raise HTTPException(403, "not enough permissions")
    return account


def by_proxy(x_forwarded_user: Annotated[str, Header()]) -> str:
    return x_forwarded_user


async def by_key(key: Annotated[str | None, Depends(APIKeyHeader(name="X-Key", auto_error=False))]) -> str | None:
    return "robot" if key == "right" else None


def by_query(key: Annotated[str, Depends(APIKeyQuery(name="api_key"))]) -> str:
    if key != "right":
        raise StarletteHTTPException(401, "a wrong key")
    return "robot"


def by_cookie(shop_session: Annotated[str | None, Cookie()] = None) -> Account:
    if shop_session != "right":
        raise HTTPException(303, headers={"Location": "/shop/login"})
    return Account("ada")


class ByClass:
    """A class, of which FastAPI makes an object for each request."""

    def __init__(self, x_user: Annotated[str, Header()]) -> None:
        self.username = x_user
        self.is_admin = True


async def by_generator(x_user: Annotated[str, Header()]) -> AsyncIterator[str]:
    yield x_user


def by_plain_generator(x_user: Annotated[str, Header()]) -> Iterator[str]:
    yield x_user


def role_of(user: Any) -> str | None:
    return "operator" if getattr(user, "is_admin", True) else "viewer"


def headers(**values: str) -> dict[str, Any]:
    return {"headers": {name.replace("_", "-"): value for name, value in values.items()}}


KINDS: list[tuple[Any, dict[str, Any], str]] = [
    (account_of, headers(Authorization="Bearer token-of-ada"), "ada"),
    (Depends(scoped), headers(Authorization="Bearer token-of-ada"), "ada"),
    (Security(scoped, scopes=["tasks"]), headers(Authorization="Bearer token-of-ada"), "ada"),
    (by_oidc, headers(Authorization=f"Bearer {id_token()}"), "ada"),
    (by_oidc, headers(Authorization=f"Bearer {id_token(preferred_username=None)}"), "auth0|17"),
    (by_proxy, headers(X_Forwarded_User="ada@example.com"), "ada@example.com"),
    (by_key, headers(X_Key="right"), "robot"),
    (by_query, {"params": {"api_key": "right"}}, "robot"),
    (by_cookie, headers(Cookie="shop_session=right", Origin="http://test"), "ada"),
    (ByClass, headers(X_User="ada"), "ada"),
    (by_generator, headers(X_User="ada"), "ada"),
    (by_plain_generator, headers(X_User="ada"), "ada"),
]


@pytest.mark.parametrize(("auth", "credentials", "name"), KINDS)
async def test_any_dependency_that_returns_a_user_or_raises_protects_every_route(
    app_of: Callable[..., FastAPI],
    client_of: ClientOf,
    engine: House,
    caplog: pytest.LogCaptureFixture,
    auth: Any,
    credentials: dict[str, Any],
    name: str,
) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.audit")
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=auth, role=role_of)
    documented = [(m, p) for p, methods in app_of().openapi()["paths"].items() for m in methods if p not in PROBES]
    assert documented
    for method, path in [*documented, ("get", "/tasks/"), ("post", "/tasks/logout")]:
        answer = await client.request(
            method,
            path.format(task_id="x", operation_id="x", fingerprint="0" * 16, name="mail"),
            json={"task_ids": ["x"]},
        )
        assert answer.status_code in {401, 403}, (method, path)
        assert answer.headers["Content-Type"] == "application/problem+json"
    page = await client.get("/tasks/dashboard")
    assert page.status_code in {303, 401, 403}
    session = (await client.get("/tasks/session", **credentials)).json()
    assert (session["actor"], session["can_act"], session["can_log_out"]) == (name, True, False)
    assert (await client.get("/tasks/dashboard", **credentials)).status_code == 200
    answer = await client.post(f"/tasks/{record.task_id}/retry", **credentials)
    assert answer.status_code == 202
    entries = [vars(entry) for entry in caplog.records if vars(entry).get("action") == "retry-task"]
    assert [entry["actor"] for entry in entries if entry["outcome"] == "done"] == [name]


async def test_what_the_dependency_raises_is_answered_as_it_is(client_of: ClientOf) -> None:
    client = client_of(auth=Security(scoped, scopes=["forbidden"]), role=role_of)
    answer = await client.get("/tasks")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    answer = await client.get("/tasks", headers={"Authorization": "Bearer token-of-ada"})
    assert (answer.status_code, answer.json()["detail"]) == (403, "not enough permissions")
    answer = await client_of(auth=by_proxy, role=role_of).get("/tasks")
    assert (answer.status_code, answer.json()["detail"]) == (
        401,
        "log in first: the sign-in of this application needs x-forwarded-user",
    )


async def test_people_are_led_to_the_login_of_the_application_and_programs_are_not(client_of: ClientOf) -> None:
    client = client_of(auth=by_cookie, role=role_of)
    answer = await client.get("/tasks/dashboard")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/shop/login")
    for path in ("/tasks", "/tasks/events", "/tasks/session"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["detail"]) == (401, "log in first")
    for method in ("get", "post"):
        answer = await client.request(method, "/tasks/login?next=view%3Dtasks")
        assert (answer.status_code, answer.headers["Location"]) == (303, "dashboard?view=tasks")


async def test_an_error_of_the_application_goes_to_the_handler_of_the_application(engine: House) -> None:
    from taskflow_otel.admin import TaskAdmin

    class NotSignedInError(Exception):
        """What some applications raise."""

    def current_user() -> str:
        raise NotSignedInError

    app = FastAPI()

    @app.exception_handler(NotSignedInError)
    def lead(request: Request, exc: NotSignedInError) -> RedirectResponse:
        return RedirectResponse("/shop/login", 303)

    TaskAdmin(app, engine.manager, auth=current_user, role=role_of)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path in ("/tasks/dashboard", "/tasks/session"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["Location"]) == (303, "/shop/login")


@pytest.mark.parametrize(
    ("role", "code", "can_act"),
    [
        (lambda user: "operator", 200, True),
        (lambda user: "viewer", 200, False),
        (lambda user: None, 403, None),
    ],
)
async def test_the_role_function_decides_what_a_user_may_do(
    client_of: ClientOf, role: Any, code: int, can_act: bool | None
) -> None:
    async def awaited(user: Account) -> Any:
        return role(user)

    for function in (role, awaited):
        client = client_of(auth=account_of, role=function)
        answer = await client.get("/tasks/session", headers={"Authorization": "Bearer token-of-ada"})
        assert answer.status_code == code
        assert answer.json().get("can_act") is can_act


@pytest.mark.parametrize("nobody", [None, ""])
async def test_a_dependency_that_returns_nobody_lets_nobody_in(client_of: ClientOf, nobody: Any) -> None:
    client = client_of(auth=lambda: nobody, role=lambda user: "operator")
    assert (await client.get("/tasks")).status_code == 401


async def test_a_role_that_does_not_exist_is_an_error_and_no_access(client_of: ClientOf) -> None:
    with pytest.raises(TypeError, match=r"role\(\) must return"):
        await client_of(auth=lambda: "ada", role=lambda user: "admin").get("/tasks")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, 403),
        ({"Origin": "http://test"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"X-CSRF-Token": "guess"}, 403),
        ({"X-CSRF-Token": "guess", "Origin": "http://evil.example"}, 403),
    ],
)
async def test_another_site_cannot_act_with_the_cookies_of_the_application(
    client_of: ClientOf, engine: House, more: dict[str, str], code: int
) -> None:
    client = client_of(auth=by_cookie, role=role_of)
    given = {"Cookie": "shop_session=right", **more}
    answer = await client.post("/tasks/queues/mail/pause", headers=given)
    assert answer.status_code == code
    assert engine.queues["mail"].paused is (code == 200)


async def test_the_page_of_a_user_of_the_application_has_a_proof_of_its_own(client_of: ClientOf) -> None:
    client = client_of(auth=by_proxy, role=role_of)
    ada, vic = ({"X-Forwarded-User": name, "Cookie": "any=thing"} for name in ("ada", "vic"))
    proof = {"X-CSRF-Token": (await client.get("/tasks/session", headers=ada)).json()["csrf_token"]}
    assert (await client.post("/tasks/queues/mail/pause", headers={**ada, **proof})).status_code == 200
    assert (await client.post("/tasks/queues/mail/pause", headers={**vic, **proof})).status_code == 403


async def test_scripts_without_cookies_need_no_proof(client_of: ClientOf) -> None:
    client = client_of(auth=account_of, role=role_of)
    answer = await client.post("/tasks/queues/mail/pause", headers={"Authorization": "Bearer token-of-ada"})
    assert answer.status_code == 200


async def test_api_tokens_and_the_metrics_token_work_beside_the_sign_in_of_the_application(client_of: ClientOf) -> None:
    secret = "t" * 40
    client = client_of(
        auth=account_of, role=role_of, tokens=[ApiToken("ci", secret, {"read"})], metrics_token="scrape-me"
    )
    for token, path, code in (
        (secret, "/tasks", 200),
        ("token-of-vic", "/tasks", 200),
        ("scrape-me", "/tasks", 401),
        ("scrape-me", "/tasks/metrics", 200),
        ("token-of-vic", "/tasks/metrics", 200),
    ):
        assert (await client.get(path, headers={"Authorization": f"Bearer {token}"})).status_code == code


async def test_an_override_of_the_application_counts_here_too(engine: House, app_of: Callable[..., FastAPI]) -> None:
    app = app_of(auth=account_of, role=role_of)
    app.dependency_overrides[account_of] = lambda: Account("eve")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/tasks/session")).json()["actor"] == "eve"


async def test_a_parameter_of_the_sign_in_is_no_unknown_parameter_of_a_route(client_of: ClientOf) -> None:
    client = client_of(auth=by_query, role=role_of)
    assert (await client.post("/tasks/queues/mail/pause", params={"api_key": "right"})).status_code == 200
    answer = await client.post("/tasks/queues/mail/pause", params={"api_key": "right", "nonsense": "1"})
    assert answer.status_code == 422


async def test_a_key_in_the_address_of_a_bulk_action_is_stored_nowhere_and_is_no_part_of_what_was_asked_for(
    client_of: ClientOf, engine: House, caplog: pytest.LogCaptureFixture
) -> None:
    engine.put(make_record(status=TaskStatus.FAILED, queue="mail"))
    client = client_of(auth=by_query, role=role_of)
    caplog.set_level("INFO")
    once = {"Idempotency-Key": "once"}
    asked = {"queue": "mail", "reason": "paper is back"}
    first = await client.post("/tasks/bulk-retry", params={**asked, "api_key": "right"}, headers=once)
    assert first.is_success
    [operation] = (await client.get("/tasks/operations", params={"api_key": "right"})).json()
    assert operation["filter"] == "queue=mail"
    for address in ("/tasks/operations", f"/tasks/operations/{operation['operation_id']}", "/tasks/audit"):
        answer = await client.get(address, params={"api_key": "right"})
        assert "queue=mail" in answer.text
        assert "right" not in answer.text
    assert "queue=mail" in caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("taskflow_otel")]
    assert "right" not in "".join(ours)


async def test_the_document_shows_how_the_application_reads_credentials(app_of: Callable[..., FastAPI]) -> None:
    options: dict[str, Any] = {"role": role_of, "tokens": [ApiToken("ci", "t" * 40)]}
    for auth, names in (
        (Security(scoped, scopes=["tasks"]), {"OAuth2PasswordBearer": "oauth2", "api_token": "http"}),
        (by_query, {"APIKeyQuery": "apiKey", "api_token": "http"}),
        (by_oidc, {"OpenIdConnect": "openIdConnect", "api_token": "http"}),
        (by_proxy, {"api_token": "http"}),
    ):
        document = app_of(auth=auth, **options).openapi()
        found = {name: scheme["type"] for name, scheme in document["components"]["securitySchemes"].items()}
        assert found == names
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                ways = {name for one in operation.get("security", ()) for name in one}
                assert ways == (names.keys() if "401" in operation["responses"] else set()), (method, path)


async def test_the_dependency_is_called_once_and_closed_before_the_request_is_answered(
    app_of: Callable[..., FastAPI], serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    steps: list[str] = []

    async def current_user() -> AsyncIterator[str]:
        steps.append("open")
        yield "ada"
        steps.append("closed")

    async def role(user: str) -> str:
        steps.append("role")
        return "operator"

    app = app_of(auth=current_user, role=role)
    async with serving(app) as served, httpx.AsyncClient(base_url=served.url) as client:
        async with client.stream("GET", "/tasks/events") as answer:
            await anext(answer.aiter_lines())
            # A live stream lasts for hours; a database session must not.
            assert steps == ["open", "role", "closed"]
        steps.clear()
        assert (await client.post("/tasks/bulk-retry", json={"task_ids": ["x"]})).status_code == 202
        assert steps == ["open", "role", "closed"]


async def test_a_dependency_may_read_the_body_and_the_route_still_gets_it(client_of: ClientOf, engine: House) -> None:
    async def signed(request: Request) -> str:
        return "ada" if b"task_ids" in await request.body() else ""

    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=signed, role=lambda user: "operator")
    answer = await client.post("/tasks/bulk-retry", json={"task_ids": [record.task_id]})
    assert [one["task_id"] for one in answer.json()["retried"]] == [record.task_id]
    assert (await client.post("/tasks/bulk-retry", json={})).status_code == 401


async def test_a_live_stream_ends_soon_after_the_application_refuses_its_user(
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_api, "EventStreams", partial(EventStreams, recheck=0.01))
    accounts = dict(ACCOUNTS)

    async def current_user(token: Annotated[str, Depends(bearer)]) -> AsyncIterator[Account]:
        if token not in accounts:
            raise HTTPException(401)
        yield accounts[token]

    async with serving(app_of(auth=current_user, role=role_of)) as served:
        for change in ("removed", "demoted"):
            accounts = dict(ACCOUNTS)
            request = {"Authorization": "Bearer token-of-ada"}
            async with (
                httpx.AsyncClient(base_url=served.url, headers=request) as client,
                client.stream("GET", "/tasks/events") as answer,
            ):
                lines = answer.aiter_lines()
                await anext(lines)
                if change == "removed":
                    del accounts["token-of-ada"]
                else:
                    accounts["token-of-ada"] = Account("ada", is_admin=False)
                async with asyncio.timeout(20):
                    async for _ in lines:
                        pass
            assert engine.stream.subscribers == 0


async def test_wrong_credentials_of_the_application_are_audited_and_missing_ones_are_not(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.audit")
    client = client_of(auth=account_of, role=lambda user: "viewer" if user.is_admin else None)
    await client.get("/tasks")
    assert not caplog.records
    await client.get("/tasks", headers={"Authorization": "Bearer wrong-token"})
    await client.get("/tasks", headers={"Authorization": "Bearer token-of-vic"})
    assert [(entry.__dict__["action"], entry.__dict__["outcome"]) for entry in caplog.records] == [
        ("login", "refused"),
        ("login", "refused"),
    ]
    assert "wrong-token" not in caplog.text
    for _ in range(50):
        answer = await client.get("/tasks", headers={"Authorization": "Bearer wrong-token"})
        assert answer.status_code == 401
    assert len(caplog.records) < 30


@pytest.mark.parametrize("raised", [ZeroDivisionError("secret"), HTTPException(401), HTTPException(302)])
async def test_a_live_stream_ends_without_a_traceback_whatever_the_application_raises_at_the_next_look(
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    raised: Exception,
) -> None:
    monkeypatch.setattr(fleet_api, "EventStreams", partial(EventStreams, recheck=0.01))
    caplog.set_level(logging.INFO)
    broken: list[Exception] = []

    def look() -> None:
        if broken:
            raise broken[0]

    async def current_user() -> str:
        look()
        return "ada"

    class Users:
        def authenticate(self, username: str, password: str) -> str:
            return "operator"

        def find(self, username: str) -> User:
            look()
            return User("operator")

    for options in ({"auth": current_user, "role": role_of}, {"auth": Users()}):
        broken.clear()
        async with (
            serving(app_of(**options)) as served,
            httpx.AsyncClient(base_url=served.url, auth=("ada", "x")) as client,
            client.stream("GET", "/tasks/events") as answer,
        ):
            lines = answer.aiter_lines()
            await anext(lines)
            broken.append(raised)
            async with asyncio.timeout(20):
                async for _ in lines:
                    pass
        assert engine.stream.subscribers == 0
    assert [record for record in caplog.records if record.exc_info] == []
    said = [record.getMessage() for record in caplog.records if "could not be looked up again" in record.getMessage()]
    assert len(said) == (0 if isinstance(raised, HTTPException) else 2)
    assert "secret" not in "".join(said)


async def test_what_the_dependency_adds_to_the_answer_is_kept(client_of: ClientOf) -> None:
    ran: list[str] = []

    def current_user(response: Response, tasks: BackgroundTasks) -> str:
        response.set_cookie("shop_session", "renewed")
        tasks.add_task(ran.append, "seen")
        return "ada"

    answer = await client_of(auth=current_user, role=role_of).get("/tasks")
    assert answer.cookies["shop_session"] == "renewed"
    assert ran == ["seen"]


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("ada", "ada"),
        (Account("ada"), "ada"),
        ({"sub": "auth0|1", "email": "ada@example.com"}, "ada@example.com"),
        ({"preferred_username": "ada", "sub": "1"}, "ada"),
        ({"id": 7}, "7"),
        (object(), "object"),
    ],
)
def test_the_audit_names_a_user_by_the_usual_fields_and_never_shows_the_whole(user: Any, name: str) -> None:
    assert name_of(user) == name
