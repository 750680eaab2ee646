"""A session ends with the user's rights, wherever it is used."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from taskflow_otel import TaskAdmin, TaskManager, User
from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.testing.backends.samples import make_instance
from taskflow_otel.web import fleet_api
from taskflow_otel.web.sessions import COOKIE
from taskflow_otel.web.sse import EventStreams
from tests.managers import started
from tests.waiting import eventually
from tests.web.conftest import ClientOf, Served
from tests.web.house import House, at_once
from tests.web.users import FORM, USER, Directory, PasswordsOnly

KEY = "k" * 32


async def log_in(client: httpx.AsyncClient, username: str = "ada", password: str = "right") -> dict[str, str]:
    """Log in by the form; returns the headers that an action needs."""
    answer = await client.post("/tasks/login", data={"username": username, "password": password})
    assert answer.status_code == 303
    return {"X-CSRF-Token": (await client.get("/tasks/session")).json()["csrf_token"]}


def same_session(client: httpx.AsyncClient, other: httpx.AsyncClient) -> httpx.AsyncClient:
    """Let another client present the same cookie."""
    other.cookies.set(COOKIE, client.cookies[COOKIE])
    return other


async def test_a_changed_role_counts_at_the_next_request(client_of: ClientOf) -> None:
    directory = Directory()
    client = client_of(auth=directory)
    proof = await log_in(client)
    assert (await client.post("/tasks/queues/mail/pause", headers=proof)).status_code == 200
    directory.users["ada"] = User("viewer", "right")
    assert (await client.post("/tasks/queues/mail/resume", headers=proof)).status_code == 403
    assert (await client.get("/tasks/session")).json()["role"] == "viewer"
    directory.users["ada"] = User("operator", "right")
    assert (await client.post("/tasks/queues/mail/resume", headers=proof)).status_code == 200


@pytest.mark.parametrize("change", [None, User("operator", "new password")])
async def test_a_removed_user_and_a_changed_password_end_the_session_at_the_next_request(
    client_of: ClientOf, change: User | None
) -> None:
    directory = Directory()
    client = client_of(auth=directory)
    await log_in(client)
    if change is None:
        del directory.users["ada"]
    else:
        directory.users["ada"] = change
    assert (await client.get("/tasks")).status_code == 401
    assert (await client.get("/tasks/dashboard")).status_code == 303


async def test_a_new_password_in_the_settings_ends_sessions_of_the_old_one(client_of: ClientOf) -> None:
    before = client_of(auth=("ada", "right"), secret_key=KEY)
    await log_in(before)
    for auth, code in ((("ada", "right"), 200), (("ada", "new one"), 401), ([("vic", "right")], 401)):
        after = same_session(before, client_of(auth=auth, secret_key=KEY))
        assert (await after.get("/tasks")).status_code == code
    demoted = same_session(before, client_of(auth=[("ada", "right", "viewer")], secret_key=KEY))
    assert (await demoted.get("/tasks/session")).json()["role"] == "viewer"


async def test_a_logout_with_a_misspelled_parameter_is_refused_and_ends_nothing(client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    await client.post("/tasks/login", data=FORM)
    proof = {"X-CSRF-Token": (await client.get("/tasks/session")).json()["csrf_token"]}
    for query, says in (
        ("everywhre=true", "did you mean 'everywhere'?"),
        ("everywhere=", "everywhere is empty"),
        ("everywhere=perhaps", "everywhere: input should be a valid boolean"),
        ("everywhere=true&everywhere=false", "everywhere is given 2 times"),
    ):
        answer = await client.post(f"/tasks/logout?{query}", headers=proof)
        assert answer.status_code == 422, query
        assert says in answer.json()["detail"]
    assert (await client.get("/tasks/session")).status_code == 200


async def test_a_logout_ends_the_session_in_every_worker_and_after_a_restart(client_of: ClientOf) -> None:
    workers = [client_of(auth=Directory(), secret_key=KEY) for _ in range(3)]
    first, second, after_restart = workers
    proof = await log_in(first)
    stolen = first.cookies[COOKIE]
    same_session(first, second)
    assert (await second.get("/tasks")).status_code == 200
    assert (await first.post("/tasks/logout")).status_code == 403
    answer = await first.post("/tasks/logout", headers=proof)
    assert answer.status_code == 204
    assert COOKIE not in first.cookies
    for worker in workers:
        worker.cookies.set(COOKIE, stolen)
    assert (await first.get("/tasks")).status_code == 401
    assert (await after_restart.get("/tasks")).status_code == 401

    async def ended() -> bool:
        return (await second.get("/tasks")).status_code == 401

    await eventually(ended, "the end of the session in another worker")


async def test_sessions_outlive_a_restart_and_ended_ones_do_not(tmp_path: Path) -> None:
    cookies: list[str] = []
    for life in range(2):
        async with contextlib.AsyncExitStack() as stack:
            workers = []
            for _ in range(2):
                manager = await stack.enter_async_context(started(TaskManager(snapshot_db=tmp_path / "tasks.db")))
                app = FastAPI()
                TaskAdmin(app, manager, auth=Directory(), secret_key=KEY)
                client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
                workers.append(await stack.enter_async_context(client))
            if life == 0:
                await log_in(workers[0])
                kept = workers[0].cookies[COOKIE]
                proof = await log_in(workers[0])
                cookies = [kept, workers[0].cookies[COOKIE]]
                assert (await workers[0].post("/tasks/logout", headers=proof)).status_code == 204
            for worker in workers:
                codes = []
                for cookie in cookies:
                    worker.cookies.set(COOKIE, cookie)
                    codes.append((await worker.get("/tasks")).status_code)
                assert codes == [200, 401]


async def test_a_logout_ends_one_session_unless_all_are_meant(client_of: ClientOf) -> None:
    laptop, phone, other = (client_of(auth=Directory(), secret_key=KEY) for _ in range(3))
    proof, _, _ = await log_in(laptop), await log_in(phone), await log_in(other, "vic")
    assert (await laptop.post("/tasks/logout", headers=proof)).status_code == 204
    assert (await phone.get("/tasks")).status_code == 200
    proof = await log_in(laptop)
    assert (await laptop.post("/tasks/logout?everywhere=true", headers=proof)).status_code == 204

    async def ended() -> bool:
        return (await phone.get("/tasks")).status_code == 401

    await eventually(ended, "the end of all sessions of the user")
    assert (await other.get("/tasks")).status_code == 200
    await log_in(laptop)


async def test_a_logout_that_cannot_be_stored_says_so_and_the_session_stays(
    client_of: ClientOf, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(auth=Directory())
    proof = await log_in(client)

    async def full(*_: Any) -> None:
        raise BackendUnavailableError("the disk is full")

    monkeypatch.setattr(engine.backend, "put_setting", full)
    answer = await client.post("/tasks/logout", headers=proof)
    assert answer.status_code == 503
    assert (await client.get("/tasks")).status_code == 200


async def test_a_mounted_application_keeps_its_sessions_to_itself(app_of: Callable[..., FastAPI]) -> None:
    shop, office = (app_of(auth=Directory(), secret_key=KEY) for _ in range(2))
    whole = Starlette(routes=[Mount("/shop", shop), Mount("/office", office)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(whole), base_url="http://test") as client:
        answer = await client.post("/shop/tasks/login", data={"username": "ada", "password": "right"})
        cookies = {"Cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}
        client.cookies.clear()
        assert (await client.get("/shop/tasks", headers=cookies)).status_code == 200
        assert (await client.get("/office/tasks", headers=cookies)).status_code == 401


async def test_a_directory_that_only_knows_passwords_is_warned_about_and_keeps_the_role_of_the_login(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(auth=PasswordsOnly())
    assert [record for record in caplog.records if "find(username)" in record.getMessage()]
    proof = await log_in(client)
    stolen = client.cookies[COOKIE]
    assert (await client.get("/tasks/session")).json()["role"] == "operator"
    assert (await client.post("/tasks/logout", headers=proof)).status_code == 204
    client.cookies.set(COOKIE, stolen)
    assert (await client.get("/tasks")).status_code == 401


async def test_a_user_who_may_log_in_but_is_not_found_is_an_error_of_the_directory(client_of: ClientOf) -> None:
    class Careless(Directory):
        async def authenticate(self, username: str, password: str) -> str | None:
            return await super().authenticate(username.lower(), password)

    with pytest.raises(TypeError, match=r"find\(\) does not know that user"):
        await client_of(auth=Careless()).post("/tasks/login", data={"username": "ADA", "password": "right"})


@pytest.mark.parametrize(
    ("options", "host", "age", "warns"),
    [
        ({}, "here", 0.0, True),
        ({"secret_key": KEY}, "here", 0.0, False),
        ({}, "elsewhere", 0.0, False),
        ({}, "here", 3_600.0, False),
    ],
)
async def test_several_workers_without_a_key_are_warned_of_at_the_first_login(
    client_of: ClientOf,
    engine: House,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    host: str,
    age: float,
    warns: bool,
) -> None:
    [own] = [one for one in await engine.backend.instances() if one.instance_id == engine.manager.engine.instance_id]
    beat = datetime.now(UTC) - timedelta(seconds=age)
    worker = make_instance("worker-2", host=own.host if host == "here" else host, heartbeat_at=beat, lease_seconds=60.0)
    at_once(MemoryBackend.beat(engine.backend, worker))
    client = client_of(auth=USER, **options)
    for _ in range(2):
        await log_in(client, *USER)
    # Others may come from the takeover, which looks for the process of the invented worker.
    warnings = [record for record in caplog.records if "secret_key" in record.getMessage()]
    assert [record.levelno for record in warnings] == ([logging.WARNING] if warns else [])


_ENDS = ["removed", "demoted", "password"]


@pytest.mark.parametrize(
    ("way", "end"), [("session", "logout"), *((way, end) for way in ("session", "basic") for end in _ENDS)]
)
async def test_a_live_stream_ends_soon_after_the_rights_of_its_user(
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    way: str,
) -> None:
    monkeypatch.setattr(fleet_api, "EventStreams", partial(EventStreams, recheck=0.01))
    directory = Directory()
    async with serving(app_of(auth=directory)) as served, httpx.AsyncClient(base_url=served.url) as client:
        proof = await log_in(client) if way == "session" else {}
        auth = None if way == "session" else ("ada", "right")
        async with client.stream("GET", "/tasks/events", auth=auth) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            if end == "removed":
                del directory.users["ada"]
            elif end == "logout":
                assert (await client.post("/tasks/logout", headers=proof)).status_code == 204
            else:
                directory.users["ada"] = User("viewer", "right") if end == "demoted" else User("operator", "new")
            async with asyncio.timeout(20):
                async for _ in lines:
                    pass
        assert engine.stream.subscribers == 0
