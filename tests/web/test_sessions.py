"""Sessions: a signed cookie, and the proof against other sites that goes with it."""

from __future__ import annotations

import httpx
import pytest

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.auth import Role
from taskflow_otel.web.sessions import COOKIE, Sessions
from tests.clocks import HandClock
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import FORM, USER


async def logged_in(client: httpx.AsyncClient) -> str:
    """Log in by the form and return the CSRF token."""
    answer = await client.post("/tasks/login", data=FORM)
    assert answer.status_code == 303
    return str((await client.get("/tasks/session")).json()["csrf_token"])


@pytest.mark.parametrize(
    ("base_url", "headers", "secure"),
    [
        ("http://test", {}, False),
        ("https://test", {}, True),
        ("http://test", {"X-Forwarded-Proto": "https"}, True),
        ("http://test", {"X-Forwarded-Proto": "https, http"}, True),
        ("http://test", {"Forwarded": 'for="[2001:db8::1]";proto=https, for=10.0.0.1;proto=http'}, True),
        ("http://test", {"X-Forwarded-Proto": "http, https"}, False),
    ],
)
async def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(
    client_of: ClientOf, base_url: str, headers: dict[str, str], secure: bool
) -> None:
    answer = await client_of(base_url, auth=USER).post("/tasks/login", data=FORM, headers=headers)
    cookie = answer.headers["Set-Cookie"].lower()
    assert cookie.startswith(COOKIE)
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert ("secure" in cookie) is secure


async def test_a_session_may_look_but_acts_only_with_its_own_csrf_proof(client_of: ClientOf, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=USER)
    token = await logged_in(client)
    assert (await client.get("/tasks")).status_code == 200
    for headers in ({}, {"X-CSRF-Token": "x"}, {"X-CSRF-Token": token[:-1] + "~"}):
        answer = await client.post(f"/tasks/{record.task_id}/retry", headers=headers)
        assert answer.status_code == 403
    answer = await client.post(f"/tasks/{record.task_id}/retry", headers={"X-CSRF-Token": token})
    assert answer.status_code == 202


async def test_after_logging_out_the_door_is_closed(client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    token = await logged_in(client)
    assert (await client.post("/tasks/logout")).status_code == 403
    assert (await client.post("/tasks/logout", headers={"X-CSRF-Token": token})).status_code == 204
    assert (await client.get("/tasks")).status_code == 401


async def test_a_session_holds_in_another_worker_with_the_same_key_only(client_of: ClientOf) -> None:
    first = client_of(auth=USER, secret_key="k" * 32)
    token = await logged_in(first)
    cookies = {COOKIE: first.cookies[COOKIE]}
    for key, code in (("k" * 32, 200), ("x" * 32, 401), (None, 401)):
        other = client_of(auth=USER, secret_key=key)
        other.cookies.update(cookies)
        assert (await other.get("/tasks")).status_code == code
        if code == 200:
            assert (await other.get("/tasks/session")).json()["csrf_token"] == token


def test_a_session_ends_when_its_time_is_over() -> None:
    clock = HandClock(1_000.0)
    sessions = Sessions("k" * 16, 60, clock=clock)
    token = sessions.issue("ada", Role.VIEWER)
    clock.seconds += 59
    actor = sessions.read(token)
    assert actor is not None
    assert (actor.name, actor.role, actor.expires_at) == ("ada", Role.VIEWER, 1_060)
    clock.seconds += 1
    assert sessions.read(token) is None


@pytest.mark.parametrize("damage", ["", ".", "a.b", "{token}x", "x{token}", "{payload}.", "{payload}.é", "é{token}"])
def test_a_changed_session_is_refused(damage: str) -> None:
    sessions = Sessions(None, 60)
    token = sessions.issue("ada", Role.VIEWER)
    assert sessions.read(damage.format(token=token, payload=token.partition(".")[0])) is None
