"""API tokens, and what each of their scopes opens."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel import ApiToken
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.auth import Role, Scope
from taskflow_otel.web.tokens import TokenBook
from tests.clocks import HandClock
from tests.web.conftest import ClientOf
from tests.web.users import PROBES, USER

SECRET = "s3cret-" * 6
ENDLESS = "/tasks/events"


def bearer(secret: str = SECRET) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("stored", [SECRET, f"sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"])
def test_a_token_is_found_by_its_secret_and_keeps_only_a_digest(stored: str) -> None:
    token = ApiToken("ci", stored, {"read"})
    assert SECRET not in repr(token)
    assert token.secret.startswith("sha256:")
    assert token.secret not in repr(token)
    book = TokenBook([ApiToken("other", "o" * 40), token])
    assert book.find(SECRET) == token
    for wrong in ("", SECRET[:-1], SECRET + " ", token.secret, "\ud800"):
        assert book.find(wrong) is None


def test_a_token_expires() -> None:
    clock = HandClock(1_000.0)
    token = ApiToken("ci", SECRET, expires_at=datetime.fromtimestamp(1_060.0, UTC))
    book = TokenBook([token, ApiToken("other", "o" * 40)], clock=clock)
    assert not any(book.has_expired(one) for one in (token, ApiToken("other", "o" * 40)))
    clock.seconds = 1_060.0
    assert book.has_expired(token)
    assert token.actor.expires_at == 1_060.0


@pytest.mark.parametrize(
    ("scopes", "role"),
    [({"read"}, Role.VIEWER), ({"metrics"}, Role.VIEWER), ({"retry"}, Role.OPERATOR), ("queues", Role.OPERATOR)],
)
def test_a_token_has_the_role_that_its_scopes_need(scopes: Any, role: Role) -> None:
    actor = ApiToken("ci", SECRET, scopes).actor
    assert (actor.name, actor.role, actor.via) == ("ci", role, "token")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": " "}, "name"),
        ({"secret": "short"}, "32 characters"),
        ({"secret": "sha256:abc" + "x" * 40}, "64 digits"),
        ({"scopes": set()}, "scopes"),
        ({"scopes": {"everything"}}, "read, metrics, retry"),
        ({"expires_at": datetime(2026, 1, 1)}, "time zone"),
    ],
)
def test_a_wrong_token_is_an_error_without_its_secret(options: dict[str, Any], says: str) -> None:
    given = {"name": "ci", "secret": SECRET, **options}
    with pytest.raises(ConfigurationError, match=says) as caught:
        ApiToken(**given)
    assert given["secret"] not in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([ApiToken("a", SECRET), ApiToken("a", "o" * 40)], "the same name"),
        ([ApiToken("a", SECRET), ApiToken("b", SECRET)], "the same secret"),
        ([SECRET], "ApiToken"),
    ],
)
def test_tokens_that_cannot_be_told_apart_are_refused(tokens: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        TokenBook(tokens)


async def test_each_scope_opens_its_routes_and_no_others(app_of: Callable[..., FastAPI], client_of: ClientOf) -> None:
    """Every route that changes something belongs to one scope; a new route must name it."""
    secrets = {scope: f"{scope:x<40}" for scope in Scope}
    tokens = [ApiToken(scope, secret, {scope}) for scope, secret in secrets.items()]
    client = client_of(auth=USER, tokens=tokens)
    opened: dict[tuple[str, str], list[str]] = {}
    for path, methods in app_of().openapi()["paths"].items():
        for method in methods:
            for scope, secret in secrets.items():
                if path in PROBES or (path == ENDLESS and scope is Scope.READ):
                    continue
                address = path.replace(":path", "").format_map(_Names())
                answer = await client.request(method, address, headers=bearer(secret), json={})
                assert answer.status_code != 401, (method, path)
                if answer.status_code != 403:
                    opened.setdefault((method, path), []).append(scope.value)
                else:
                    assert "does not have the scope" in answer.json()["detail"]
    for (method, path), scopes in opened.items():
        if path == "/tasks/metrics":
            assert scopes == ["read", "metrics"]
        elif method == "get":
            assert scopes == ["read"], path
        else:
            assert len(scopes) == 1, (method, path, scopes)
            assert scopes[0] not in {"read", "metrics"}
    # Other arguments are a part of the body of a retry.
    assert {scope for scopes in opened.values() for scope in scopes} == set(Scope) - {Scope.EDIT}
    documented = {(method, path) for path, methods in app_of().openapi()["paths"].items() for method in methods}
    assert documented - opened.keys() == {("get", path) for path in {*PROBES, ENDLESS}}


class _Names(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "x"


async def test_a_token_needs_no_proof_against_other_sites_and_gets_no_session(client_of: ClientOf) -> None:
    client = client_of(auth=USER, tokens=[ApiToken("ci", SECRET, {"read", "queues"})])
    headers = {**bearer(), "Origin": "https://elsewhere.example"}
    assert (await client.post("/tasks/queues/mail/pause", headers=headers)).status_code == 200
    session = (await client.get("/tasks/session", headers=bearer())).json()
    assert (session["actor"], session["can_log_out"], session["csrf_token"]) == ("ci", False, None)


async def test_an_expired_token_says_so_and_any_other_bearer_is_unknown(client_of: ClientOf) -> None:
    old = ApiToken("old", SECRET, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    client = client_of(auth=USER, tokens=[old])
    answer = await client.get("/tasks", headers=bearer())
    assert answer.status_code == 401
    assert answer.json()["detail"] == "the API token 'old' has expired"
    assert (await client.get("/tasks", headers=bearer("x" * 40))).json()["detail"] == "log in first"


async def test_the_audit_names_the_token_and_no_log_has_its_secret(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = client_of(auth=USER, tokens=[ApiToken("ci", SECRET, {"queues"})])
    await client.post("/tasks/queues/mail/pause", headers=bearer())
    await client.get("/tasks", headers=bearer("wrong-" + SECRET))
    assert any(entry.__dict__.get("actor") == "ci" for entry in caplog.records)
    assert SECRET not in caplog.text


def test_tokens_without_a_login_would_protect_nothing(app_of: Callable[..., FastAPI]) -> None:
    with pytest.raises(ConfigurationError, match="tokens need auth"):
        app_of(tokens=[ApiToken("ci", SECRET)])
