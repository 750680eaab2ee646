from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.auth import LoginThrottle, Role, TooManyLoginsError
from taskflow_otel.web.sessions import COOKIE, Sessions
from tests.web.conftest import ClientOf
from tests.web.stand_ins import FakeEngine, FakeManager, make_record

USER = ("ada", "correct horse")
FORM = {"username": USER[0], "password": USER[1]}


class Directory:
    """A backend with both roles."""

    async def authenticate(self, username: str, password: str) -> str | None:
        return {"ada": "operator", "vic": "viewer"}.get(username) if password == "right" else None


async def logged_in(client: httpx.AsyncClient) -> str:
    """Log in by the form and return the CSRF token."""
    answer = await client.post("/tasks/login", data=FORM)
    assert answer.status_code == 303
    return str((await client.get("/tasks/session")).json()["csrf_token"])


async def test_everything_under_the_path_asks_who_is_there(app_of: Callable[..., FastAPI], client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    document = (await client.get("/openapi.json")).json()
    documented = [(method, path) for path, methods in document["paths"].items() for method in methods]
    assert ("get", "/tasks/events") in documented
    assert ("delete", "/tasks/history") in documented
    for method, path in [*documented, ("get", "/tasks/"), ("post", "/tasks/logout")]:
        answer = await client.request(method, path.format(task_id="x", name="default"), json={"task_ids": ["x"]})
        assert answer.status_code == 401, (method, path)
        assert answer.json() == {"detail": "log in first"}


@pytest.mark.parametrize(
    ("auth", "credentials", "code"),
    [
        (USER, USER, 200),
        (USER, ("ada", "wrong"), 401),
        (USER, ("eve", "correct horse"), 401),
        (USER, ("ada", ""), 401),
        ([("a", "1"), ("ü", "ß:ß")], ("ü", "ß:ß"), 200),
        ([("a", "1"), ("b", "2")], ("a", "2"), 401),
        (Directory(), ("vic", "right"), 200),
        (Directory(), ("vic", "wrong"), 401),
    ],
)
async def test_basic_credentials_are_checked(
    client_of: ClientOf, auth: Any, credentials: tuple[str, str], code: int
) -> None:
    basic = httpx.BasicAuth(*(part.encode() for part in credentials))
    assert (await client_of(auth=auth).get("/tasks", auth=basic)).status_code == code


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic YWJj", "Basic /////w==", "Bearer x", "nonsense"])
async def test_damaged_credentials_are_no_credentials(client_of: ClientOf, header: str) -> None:
    answer = await client_of(auth=USER).get("/tasks", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Mode": "cors"}, {"Accept": "text/event-stream"}])
async def test_the_page_is_not_interrupted_by_the_browsers_own_login_dialog(
    client_of: ClientOf, headers: dict[str, str]
) -> None:
    answer = await client_of(auth=USER).get("/tasks", headers=headers)
    assert answer.status_code == 401
    assert "WWW-Authenticate" not in answer.headers


async def test_the_page_leads_to_the_login_and_back_to_the_view_it_was_on(client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    answer = await client.get("/tasks/dashboard?view=tasks&q=a%26b")
    assert answer.status_code == 303
    login = httpx.URL("http://test/tasks/dashboard").join(answer.headers["Location"])
    form = await client.get(login)
    action = re.search(r'action="([^"]+)"', form.text)
    assert action is not None
    answer = await client.post(login.join(action[1].replace("&amp;", "&")), data=FORM)
    assert httpx.URL("http://test/tasks/login").join(answer.headers["Location"]) == httpx.URL(
        "http://test/tasks/dashboard?view=tasks&q=a%26b"
    )


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "x\r\nSet-Cookie: a=b", "/../../x"])
async def test_the_login_leads_nowhere_but_to_the_page(client_of: ClientOf, target: str) -> None:
    answer = await client_of(auth=USER).post("/tasks/login", params={"next": target}, data=FORM)
    location = httpx.URL("http://test/tasks/login").join(answer.headers["Location"])
    assert (location.host, location.path) == ("test", "/tasks/dashboard")
    assert len(answer.headers.get_list("Set-Cookie")) == 1


@pytest.mark.parametrize(
    ("base_url", "headers", "secure"),
    [("http://test", {}, False), ("https://test", {}, True), ("http://test", {"X-Forwarded-Proto": "https"}, True)],
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


async def test_a_session_may_look_but_acts_only_with_its_own_csrf_proof(
    client_of: ClientOf, engine: FakeEngine
) -> None:
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
    now = 1_000.0
    sessions = Sessions("k" * 16, 60, now=lambda: now)
    token = sessions.issue("ada", Role.VIEWER)
    now += 59
    actor = sessions.read(token)
    assert actor is not None
    assert (actor.name, actor.role, actor.expires_at) == ("ada", Role.VIEWER, 1_060)
    now += 1
    assert sessions.read(token) is None


@pytest.mark.parametrize("damage", ["", ".", "a.b", "{token}x", "x{token}", "{payload}.", "{payload}.é", "é{token}"])
def test_a_session_that_was_tampered_with_is_none(damage: str) -> None:
    sessions = Sessions(None, 60)
    token = sessions.issue("ada", Role.VIEWER)
    assert sessions.read(damage.format(token=token, payload=token.partition(".")[0])) is None


async def test_a_viewer_looks_and_an_operator_acts(client_of: ClientOf, engine: FakeEngine) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=Directory())
    assert (await client.get("/tasks/session", auth=("vic", "right"))).json()["can_act"] is False
    for user, code in (("vic", 403), ("ada", 202)):
        answer = await client.post(f"/tasks/{record.task_id}/retry", auth=(user, "right"))
        assert answer.status_code == code


async def test_read_only_refuses_every_action(client_of: ClientOf, engine: FakeEngine) -> None:
    record = engine.put(make_record())
    client = client_of(read_only=True)
    document = (await client.get("/openapi.json")).json()
    actions = [(m, p) for p, methods in document["paths"].items() for m in methods if m != "get"]
    assert len(actions) == 11
    for method, path in actions:
        address = path.format(task_id=record.task_id, name="mail")
        answer = await client.request(method, address, json={"task_ids": [record.task_id]} if "bulk" in path else {})
        assert answer.status_code == 403, address
    assert not engine.queues["mail"].paused
    assert list(engine.records) == [record.task_id]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://test"}, 202),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://public.example", "X-Forwarded-Host": "public.example"}, 202),
    ],
)
@pytest.mark.parametrize("auth", [None, USER])
async def test_a_page_of_another_site_cannot_act_through_the_browser(
    client_of: ClientOf, engine: FakeEngine, auth: Any, headers: dict[str, str], code: int
) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED))
    answer = await client_of(auth=auth).post(f"/tasks/{record.task_id}/retry", headers=headers, auth=auth)
    assert answer.status_code == code


async def test_guessing_is_slowed_down_for_basic_and_form_alike(client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    for _ in range(3):
        assert (await client.get("/tasks", auth=("ada", "guess"))).status_code == 401
    for _ in range(2):
        assert (await client.post("/tasks/login", data={**FORM, "password": "guess"})).status_code == 401
    answer = await client.get("/tasks", auth=USER)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    answer = await client.post("/tasks/login", data=FORM)
    assert answer.status_code == 429
    assert "too many failed logins" in answer.text


def test_the_throttle_forgets_after_its_window_and_knows_its_keys_apart() -> None:
    now = 0.0
    throttle = LoginThrottle(window=60, clock=lambda: now)

    def guess(key: str) -> None:
        with throttle.attempt({key: 2}) as failed:
            failed()

    guess("a")
    now = 30.0
    guess("a")
    with pytest.raises(TooManyLoginsError) as caught:
        guess("a")
    assert caught.value.retry_after == 30.0
    guess("b")
    now = 60.0
    guess("a")


async def test_the_metrics_open_to_their_token_and_nothing_else_does(client_of: ClientOf) -> None:
    client = client_of(auth=USER, metrics_token="scrape-me")
    bearer = {"Authorization": "Bearer scrape-me"}
    assert (await client.get("/tasks/metrics", headers=bearer)).status_code == 200
    assert (await client.get("/tasks/metrics", auth=USER)).status_code == 200
    assert (await client.get("/tasks/metrics", headers={"Authorization": "Bearer no"})).status_code == 401
    assert (await client.get("/tasks", headers=bearer)).status_code == 401


async def test_a_metrics_token_guards_the_metrics_of_an_open_administration_too(client_of: ClientOf) -> None:
    client = client_of(metrics_token="scrape-me")
    assert (await client.get("/tasks/metrics")).status_code == 401
    assert (await client.get("/tasks")).status_code == 200


async def test_actions_and_logins_are_audited_with_their_actor(
    client_of: ClientOf, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.audit")
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=USER)
    await client.post("/tasks/login", data={"username": "eve\nforged line", "password": "x"})
    await client.post(f"/tasks/{record.task_id}/retry", auth=USER)
    entries = [(entry.__dict__["actor"], entry.__dict__["action"]) for entry in caplog.records]
    assert entries == [("anonymous", "login"), ("ada", "retry")]
    assert "\n" not in caplog.records[0].getMessage()


async def test_a_login_form_of_megabytes_is_refused(client_of: ClientOf) -> None:
    assert (await client_of(auth=USER).post("/tasks/login", content=b"x" * 100_000)).status_code == 413


async def test_the_title_is_data_on_both_pages(client_of: ClientOf) -> None:
    client = client_of(auth=USER, title="</title><script>alert(1)</script>$title")
    for address in ("/tasks/login", "/tasks/dashboard"):
        text = (await client.get(address, auth=USER)).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;$title" in text


async def test_pages_and_files_carry_a_strict_policy_and_nothing_inline(client_of: ClientOf) -> None:
    client = client_of()
    page = await client.get("/tasks/dashboard")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=|https?://|(?:href|src)=\"/", page.text)
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert files
    for name in files:
        answer = await client.get(f"/tasks/{name}")
        assert answer.status_code == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        again = await client.get(f"/tasks/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["none.js", "index.html", "..%2fapi.py", "%2e%2e%2fapi.py", "%00"])
async def test_only_the_files_of_the_page_are_served(client_of: ClientOf, name: str) -> None:
    assert (await client_of().get(f"/tasks/static/{name}")).status_code == 404


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": "tasks"}, "slash"),
        ({"path": "/tasks/"}, "slash"),
        ({"path": "/"}, "slash"),
        ({"path": ""}, "slash"),
        ({"path": "/{x}"}, "path"),
        ({"title": " "}, "title"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"trace_url": "javascript:alert('{trace_id}')"}, "trace_url"),
        ({"trace_url": "http://localhost/trace"}, "trace_url"),
        ({"auth": ("ada", "")}, "auth"),
        ({"auth": []}, "auth"),
        ({"auth": "ada:secret"}, "auth"),
        ({"auth": [("ada", "a"), ("ada", "b")]}, "twice"),
        ({"auth": [("ada",)]}, "auth"),
        ({"auth": ("a:b", "c")}, "colon"),
        ({"secret_key": "short"}, "secret_key"),
        ({"token_expiry": 0}, "token_expiry"),
        ({"metrics_token": ""}, "metrics_token"),
    ],
)
def test_a_wrong_setting_is_an_error_at_the_call(options: dict[str, Any], says: str) -> None:
    manager = FakeManager()
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=says):
        TaskAdmin(app, manager, **options)  # type: ignore[arg-type]  # a stand-in for the manager
    assert manager.mounted_on == []


def test_a_password_never_shows_in_the_error_about_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TaskAdmin(FastAPI(), FakeManager(), auth="hunter2-password")  # type: ignore[arg-type]  # wrong on purpose
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("options", "warns"), [({}, True), ({"read_only": True}, True), ({"auth": USER}, False)])
def test_an_open_administration_says_so_at_start(
    caplog: pytest.LogCaptureFixture, options: dict[str, Any], warns: bool
) -> None:
    TaskAdmin(FastAPI(), FakeManager(), **options)  # type: ignore[arg-type]  # a stand-in for the manager
    assert any("is open to everyone" in message for message in caplog.messages) is warns


@pytest.mark.parametrize("auto_install", [True, False])
def test_the_manager_is_tied_to_the_application(auto_install: bool) -> None:
    manager, app = FakeManager(), FastAPI()
    TaskAdmin(app, manager, auto_install=auto_install)  # type: ignore[arg-type]  # a stand-in for the manager
    assert manager.mounted_on == [app]
    assert manager.installed_on == ([app] if auto_install else [])
