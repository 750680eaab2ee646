"""Session tokens: signed, bound to their administration, and of no use to a forger."""

from __future__ import annotations

import base64
import json
import logging

import httpx
import pytest

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.auth import Role
from taskflow_otel.web.sessions import COOKIE, Sessions
from tests.clocks import HandClock
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import FORM, USER

KEY = "k" * 32


def issue(sessions: Sessions, *, place: str = "") -> str:
    """The token of ada, a viewer."""
    return sessions.issue("ada", Role.VIEWER, credential="hash", generation="", place=place)[0]


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


async def test_a_session_holds_in_another_worker_with_the_same_key_only(client_of: ClientOf) -> None:
    first = client_of(auth=USER, secret_key=KEY)
    token = await logged_in(first)
    cookies = {COOKIE: first.cookies[COOKIE]}
    for key, code in ((KEY, 200), ("x" * 32, 401), (None, 401)):
        other = client_of(auth=USER, secret_key=key)
        other.cookies.update(cookies)
        assert (await other.get("/tasks")).status_code == code
        if code == 200:
            assert (await other.get("/tasks/session")).json()["csrf_token"] == token


async def test_a_session_of_one_administration_is_worthless_at_another_with_the_same_key(client_of: ClientOf) -> None:
    first = client_of(auth=USER, secret_key=KEY)
    await logged_in(first)
    other = client_of(auth=USER, secret_key=KEY, path="/other/tasks")
    other.cookies.set(COOKIE, first.cookies[COOKIE])
    assert (await other.get("/other/tasks")).status_code == 401
    assert (await first.get("/tasks")).status_code == 200


def test_a_session_ends_when_its_time_is_over() -> None:
    clock = HandClock(1_000.0)
    sessions = Sessions("k" * 16, 60, clock=clock)
    token = issue(sessions)
    clock.seconds += 59
    session = sessions.read(token)
    assert session is not None
    assert (session.username, session.role, session.expires_at) == ("ada", Role.VIEWER, 1_060)
    clock.seconds += 1
    assert sessions.read(token) is None


@pytest.mark.parametrize(
    "damage", ["", ".", "a.b", "{token}x", "x{token}", "{payload}.", "{payload}.é", "é{token}", "{payload}", "W10.x"]
)
def test_a_changed_session_is_refused(damage: str) -> None:
    sessions = Sessions(None, 60)
    token = issue(sessions)
    assert sessions.read(damage.format(token=token, payload=token.partition(".")[0])) is None


@pytest.mark.parametrize(
    "change", [{"r": "operator"}, {"u": "eve"}, {"e": 9e12}, {"s": "0" * 32}, {"g": "x"}, {"c": ""}]
)
def test_no_field_of_a_session_can_be_swapped(change: dict[str, object]) -> None:
    sessions = Sessions(KEY, 60)
    payload, _, signature = issue(sessions).partition(".")
    body = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    forged = base64.urlsafe_b64encode(json.dumps({**body, **change}).encode()).rstrip(b"=").decode()
    assert sessions.read(f"{payload}.{signature}") is not None
    assert sessions.read(f"{forged}.{signature}") is None


@pytest.mark.parametrize(
    ("reader", "place"),
    [
        (Sessions(KEY, 60, audience="/other"), ""),
        (Sessions("x" * 32, 60, audience="/tasks"), ""),
        (Sessions(KEY, 60, audience="/tasks"), "/mounted/elsewhere"),
        (Sessions(KEY, 60, audience=""), "/tasks"),
    ],
)
def test_a_session_is_valid_at_its_own_path_and_key_alone(reader: Sessions, place: str) -> None:
    token = issue(Sessions(KEY, 60, audience="/tasks"))
    assert Sessions(KEY, 60, audience="/tasks").read(token) is not None
    assert reader.read(token, place) is None


def test_a_session_says_nothing_about_the_credential() -> None:
    tokens = [
        sessions.issue("ada", Role.VIEWER, credential="hash", generation="")[1].stamp
        for sessions in (Sessions(KEY, 60), Sessions("x" * 32, 60), Sessions(KEY, 60, audience="/other"))
    ]
    assert len(set(tokens)) == 3
    assert Sessions(KEY, 60).is_stamp(tokens[0], "ada", "hash")
    assert not Sessions(KEY, 60).is_stamp(tokens[0], "ada", "new hash")
    assert not Sessions(KEY, 60).is_stamp(tokens[0], "eve", "hash")


def test_a_session_of_another_process_is_reported_once_where_there_is_no_key(caplog: pytest.LogCaptureFixture) -> None:
    of_another_worker = issue(Sessions(None, 60, audience="/tasks"))
    here = Sessions(None, 60, audience="/tasks")
    for _ in range(3):
        assert here.read(of_another_worker) is None
        assert here.read("noise.noise") is None
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "secret_key" in warnings[0]
    caplog.clear()
    assert Sessions(KEY, 60, audience="/tasks").read(of_another_worker) is None
    assert not caplog.records
