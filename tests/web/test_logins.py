"""Attempts to get in: what is answered after too many, and what the audit says of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import ApiToken
from taskflow_otel.web import access
from taskflow_otel.web.throttle import LoginThrottle
from tests.clocks import HandClock
from tests.web.users import FORM, USER

TOKEN = "t" * 40


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """The clock of the throttle of each administration that the test makes."""
    clock = HandClock()
    monkeypatch.setattr(access, "LoginThrottle", lambda: LoginThrottle(clock=clock))
    return clock


@pytest.fixture
async def at(app_of: Callable[..., FastAPI], clock: HandClock) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """Clients of one administration, each at an address of its own."""
    app = app_of(auth=USER, tokens=[ApiToken("ci", TOKEN)], metrics_token="scrape-me")
    clients: list[httpx.AsyncClient] = []

    def connect(address: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, client=(address, 1))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://test"))
        return clients[-1]

    yield connect
    for client in clients:
        await client.aclose()


At = Callable[..., httpx.AsyncClient]


@pytest.fixture
def audited(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[Any, ...]]]:
    """Actor, action, target and outcome of each entry of the audit, oldest first; 429 is shown as `throttled`."""
    caplog.set_level(logging.INFO, "taskflow_otel.audit")

    def entries() -> list[tuple[Any, ...]]:
        names = ("actor", "action", "target")
        return [
            (
                *(record.__dict__[name] for name in names),
                "throttled" if record.__dict__["status"] == 429 else record.__dict__["outcome"],
            )
            for record in caplog.records
            if record.name == "taskflow_otel.audit"
        ]

    return entries


async def test_guessing_by_basic_and_by_form_counts_together_and_says_how_long_to_wait(
    at: At, clock: HandClock
) -> None:
    client = at("203.0.113.7")
    for _ in range(3):
        assert (await client.get("/tasks", auth=("ada", "guess"))).status_code == 401
    for _ in range(2):
        assert (await client.post("/tasks/login", data={**FORM, "password": "guess"})).status_code == 401
    answer = await client.get("/tasks", auth=USER)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    answer = await client.post("/tasks/login", data=FORM)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert "too many failed logins" in answer.text
    clock.seconds += 1.0
    assert (await client.get("/tasks", auth=("ada", "guess"))).status_code == 401
    assert (await client.get("/tasks", auth=USER)).headers["Retry-After"] == "2"
    clock.seconds += 2.0
    assert (await client.get("/tasks", auth=USER)).status_code == 200
    assert (await client.get("/tasks", auth=("ada", "guess"))).status_code == 401
    assert (await client.get("/tasks", auth=USER)).status_code == 200


async def test_the_owner_comes_in_from_another_network_while_others_guess(at: At) -> None:
    for _ in range(10):
        await at("203.0.113.7").get("/tasks", auth=("ada", "guess"))
    assert (await at("203.0.113.7").get("/tasks", auth=USER)).status_code == 429
    assert (await at("198.51.100.1").get("/tasks", auth=USER)).status_code == 200
    assert (await at("198.51.100.2").post("/tasks/login", data=FORM)).status_code == 303


async def test_a_user_who_is_in_is_not_put_out_by_guesses_from_the_same_network(at: At) -> None:
    client = at("203.0.113.7")
    assert (await client.post("/tasks/login", data=FORM)).status_code == 303
    stranger = at("203.0.113.7")
    for _ in range(10):
        await stranger.get("/tasks", auth=("ada", "guess"))
    assert (await client.get("/tasks")).status_code == 200
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert (await stranger.get("/tasks", headers=bearer)).status_code == 200


async def test_unknown_bearers_are_slowed_down_too(at: At, clock: HandClock) -> None:
    client = at("203.0.113.7")
    wrong = {"Authorization": "Bearer wrong"}
    for path in ["/tasks", "/tasks/metrics"] * 10:
        assert (await client.get(path, headers=wrong)).status_code == 401
    answer = await client.get("/tasks", headers=wrong)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    scraper = {"Authorization": "Bearer scrape-me"}
    assert (await client.get("/tasks/metrics", headers=scraper)).status_code == 200
    assert (await client.get("/tasks", headers=scraper)).json()["detail"] == "the metrics token opens the metrics alone"
    assert (await client.get("/tasks", auth=USER)).status_code == 200
    clock.seconds += 1.0
    assert (await client.get("/tasks", headers=wrong)).status_code == 401


async def test_each_failure_is_audited_whatever_secret_was_wrong(
    at: At, audited: Callable[[], list[tuple[Any, ...]]]
) -> None:
    client = at("203.0.113.7")
    await client.get("/tasks", auth=("ada", "guess"))
    await client.post("/tasks/login", data={"username": "eve", "password": "guess"})
    await client.get("/tasks", headers={"Authorization": "Bearer wrong"})
    await client.get("/tasks/metrics", headers={"Authorization": "Bearer wrong"})
    await client.post("/tasks/login", data=FORM)
    assert audited() == [
        ("anonymous", "login", "ada", "refused"),
        ("anonymous", "login", "eve", "refused"),
        ("anonymous", "token-login", "unknown token", "refused"),
        ("anonymous", "token-login", "unknown token", "refused"),
        ("ada", "login", "ada", "done"),
    ]


@pytest.mark.parametrize(("method", "path"), [("GET", "/tasks"), ("POST", "/tasks/queues/mail/pause")])
async def test_a_flood_of_guesses_is_audited_once_for_each_delay(
    at: At, clock: HandClock, audited: Callable[[], list[tuple[Any, ...]]], method: str, path: str
) -> None:
    client = at("203.0.113.7")
    for _ in range(20):
        await client.request(method, path, auth=("x" * 10_000, "guess"))
    outcomes = [(len(target), outcome) for _, _, target, outcome in audited()]
    assert outcomes == [(200, "refused")] * 5 + [(200, "throttled")]
    clock.seconds += 1.0
    for _ in range(20):
        await client.request(method, path, auth=("x" * 10_000, "guess"))
    assert [outcome for *_, outcome in audited()][6:] == ["refused", "throttled"]
