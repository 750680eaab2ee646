"""Credentials: who they belong to, and how guessing is slowed down."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskManager
from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.auth import LoginThrottle, TooManyLoginsError
from tests.clocks import HandClock
from tests.web.conftest import ClientOf
from tests.web.users import FORM, USER, Directory


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
    clock = HandClock()
    throttle = LoginThrottle(window=60, clock=clock)

    def guess(key: str) -> None:
        with throttle.attempt({key: 2}) as failed:
            failed()

    guess("a")
    clock.seconds = 30.0
    guess("a")
    with pytest.raises(TooManyLoginsError) as caught:
        guess("a")
    assert caught.value.retry_after == 30.0
    guess("b")
    clock.seconds = 60.0
    guess("a")


def test_a_password_never_shows_in_the_error_about_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TaskAdmin(FastAPI(), TaskManager(), auth="hunter2-password")  # type: ignore[arg-type]  # wrong on purpose
    assert "hunter2" not in str(caught.value)
