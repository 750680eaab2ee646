"""Every way to fail to get in, on routes that read and on routes that act: the audit has it, and no secret."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import Depends, HTTPException, Request

from taskflow_otel import ApiToken
from taskflow_otel.model.audit import AuditQuery
from taskflow_otel.web.auth import Role
from taskflow_otel.web.sessions import COOKIE, Sessions
from tests.clocks import HandClock
from tests.web.conftest import ClientOf
from tests.web.fake_oidc import by_oidc, id_token
from tests.web.house import House
from tests.web.test_app_login import by_cookie, by_key, by_query, headers, role_of, scoped
from tests.web.users import FORM, USER

KEY = "k" * 32
OLD = "o" * 40
BASIC = f"Basic {base64.b64encode(b'ada:wrong-secret').decode()}"


def by_request(request: Request) -> str:
    """What an application writes that reads the request itself."""
    if request.cookies.get("shop_session") != "right":
        raise HTTPException(401)
    return "ada"


@pytest.mark.parametrize(
    ("auth", "wrong", "nothing"),
    [
        (by_key, headers(X_Key="wrong-key"), headers(X_Other="wrong-key")),
        (by_query, {"params": {"api_key": "wrong-key"}}, {"params": {"limit": "1"}}),
        (by_cookie, headers(Cookie="shop_session=wrong-key"), headers(Cookie="theme=wrong-key")),
        (by_request, headers(Cookie="shop_session=wrong-key"), headers(Accept="wrong-key")),
        (Depends(scoped), headers(Authorization="Bearer wrong-key"), headers(User_Agent="wrong-key")),
        *(
            (by_oidc, headers(Authorization=f"Bearer {token}"), {})
            for token in (
                "wrong-key",
                id_token(b"wrong-key"),
                id_token(aud="another"),
                id_token(exp=1),
                id_token(iss="https://evil"),
            )
        ),
    ],
)
async def test_a_wrong_credential_of_any_kind_is_audited_on_routes_that_read_too(
    client_of: ClientOf, engine: House, auth: Any, wrong: dict[str, Any], nothing: dict[str, Any]
) -> None:
    client = client_of(auth=auth, role=role_of)
    for path in ("/tasks", "/tasks/metrics"):
        assert (await client.get(path, **nothing)).status_code in {401, 403}
        assert (await client.get(path, **wrong)).status_code in {401, 403}
    found = (await engine.manager.engine.audit.page(AuditQuery())).entries
    assert [(entry.action, entry.outcome, entry.status, entry.detail) for entry in found] == [
        ("login", "refused", 401, "refused by the application")
    ] * 2
    assert {entry.route for entry in found} == {"GET /tasks", "GET /tasks/metrics"}
    assert "wrong-key" not in str(found)


async def test_a_user_of_the_application_without_a_role_is_audited_by_name(client_of: ClientOf, engine: House) -> None:
    client = client_of(auth=by_oidc, role=lambda user: None)
    answer = await client.get("/tasks", headers={"Authorization": f"Bearer {id_token()}"})
    assert (answer.status_code, answer.json()["detail"]) == (
        403, "ada may not use this administration: the account has no role here",
    )  # fmt: skip
    [entry] = (await engine.manager.engine.audit.page(AuditQuery())).entries
    assert (entry.action, entry.target, entry.outcome, entry.status, entry.detail) == (
        "login", "ada", "refused", 403, "the account has no role here",
    )  # fmt: skip


def token_of(username: str, key: str, clock: HandClock | None = None) -> str:
    """A session token that was signed with a key."""
    sessions = Sessions(key, 3_600, audience="/tasks", **({} if clock is None else {"clock": clock}))
    return sessions.issue(username, Role.OPERATOR, credential="right", generation="")[0]


FORGED = base64.urlsafe_b64encode(json.dumps(dict.fromkeys("ursecg", 1)).encode()).decode()
FAILURES: dict[str, tuple[dict[str, str], tuple[str, str, str]]] = {
    "a wrong password": ({"Authorization": BASIC}, ("login", "ada", "wrong credentials")),
    "an unknown token": (
        {"Authorization": "Bearer wrong-secret"},
        ("token-login", "unknown token", "wrong credentials"),
    ),
    "an expired token": ({"Authorization": f"Bearer {OLD}"}, ("token-login", "old", "the token has expired")),
    "a session of another key": (
        {"Cookie": f"{COOKIE}={token_of('eve', 'another key of it')}"},
        ("session-login", "eve", "a session that this installation has not signed"),
    ),
    "a session whose fields are numbers": (
        {"Cookie": f"{COOKIE}={FORGED}.x"},
        ("session-login", "", "a session that this installation has not signed"),
    ),
    "no session at all": (
        {"Cookie": f"{COOKIE}=wrong-secret"},
        ("session-login", "", "a session that this installation has not signed"),
    ),
    "an expired session": (
        {"Cookie": f"{COOKIE}={token_of('ada', KEY, HandClock(1.0))}"},
        ("session-login", "ada", "an expired or ended session"),
    ),
    "the token of the metrics": (
        {"Authorization": "Bearer scrape-secret"},
        ("token-login", "metrics token", "the metrics token opens the metrics alone"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILURES)
async def test_each_way_to_fail_is_in_the_audit_whatever_the_route_does(
    client_of: ClientOf, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sent, (action, target, detail) = FAILURES[kind]
    old = ApiToken("old", OLD, {"read", "queues"}, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    client = client_of(auth=USER, secret_key=KEY, tokens=[old], metrics_token="scrape-secret")
    for method, path in (("GET", "/tasks"), ("GET", "/tasks/none"), ("POST", "/tasks/queues/mail/pause")):
        assert (await client.request(method, path, headers=sent)).status_code == 401
    found = (await client.get("/tasks/audit?outcome=refused", auth=USER)).json()
    assert [(entry["actor"], entry["action"], entry["target"] or "", entry["detail"]) for entry in found] == [
        (None, action, target, detail)
    ] * 3
    assert [entry["route"] for entry in found] == [
        "POST /tasks/queues/{name:path}/pause", "GET /tasks/{task_id}", "GET /tasks",
    ]  # fmt: skip
    assert {(entry["status"], entry["client"]) for entry in found} == {(401, "127.0.0.1")}
    assert "secret" not in json.dumps(found)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("taskflow_otel")]
    assert "secret" not in "".join(ours)


async def test_a_session_that_was_ended_is_refused_and_audited_with_its_user(client_of: ClientOf) -> None:
    client = client_of(auth=USER, secret_key=KEY)
    await client.post("/tasks/login", data=FORM)
    kept = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
    csrf = (await client.get("/tasks/session")).json()["csrf_token"]
    assert (await client.post("/tasks/logout", headers={"X-CSRF-Token": csrf})).status_code == 204
    client.cookies.clear()
    assert (await client.get("/tasks", headers=kept)).status_code == 401
    [entry] = (await client.get("/tasks/audit?action=session-login", auth=USER)).json()
    assert (entry["target"], entry["detail"]) == ("ada", "an expired or ended session")


async def test_a_stale_session_keeps_nobody_from_logging_in(client_of: ClientOf) -> None:
    client = client_of(auth=USER, secret_key=KEY)
    stale = {"Cookie": f"{COOKIE}={token_of('ada', 'another key of it')}"}
    for _ in range(100):
        assert (await client.get("/tasks/stats", headers=stale)).status_code == 401
    answer = await client.get("/tasks/dashboard", headers=stale)
    assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "login")
    assert (await client.post("/tasks/login", data=FORM, headers=stale)).status_code == 303


async def test_a_token_that_reads_beyond_its_scope_is_audited_under_its_name(client_of: ClientOf) -> None:
    secret = "s" * 40
    client = client_of(auth=USER, tokens=[ApiToken("ci", secret, {"metrics"})])
    bearer = {"Authorization": f"Bearer {secret}"}
    assert (await client.get("/tasks/metrics", headers=bearer)).status_code == 200
    assert (await client.get("/tasks/stats", headers=bearer)).status_code == 403
    [entry] = (await client.get("/tasks/audit", auth=USER)).json()
    assert (entry["actor"], entry["method"], entry["action"], entry["outcome"], entry["status"]) == (
        "ci", "token", "get-stats", "refused", 403,
    )  # fmt: skip
    assert "does not have the scope 'read'" in entry["detail"]
