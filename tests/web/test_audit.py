"""Who did what: one entry for each action, refused ones included, with the user who wanted it."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import FORM, USER, Directory

Entry = dict[str, Any]


async def entries(client: httpx.AsyncClient, **options: Any) -> list[Entry]:
    """The audit, oldest first."""
    answer = await client.get("/tasks/audit", **options)
    assert answer.status_code == 200, answer.text
    found: list[Entry] = answer.json()
    return found[::-1]


def told(entry: Entry, *names: str) -> tuple[Any, ...]:
    return tuple(entry[name] for name in names)


async def test_actions_and_logins_are_audited_with_their_actor(
    client_of: ClientOf, engine: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.audit")
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=USER)
    await client.post("/tasks/login", data={"username": "eve\nforged line", "password": "x"})
    await client.post(f"/tasks/{record.task_id}/retry", auth=USER)
    lines = [(entry.__dict__["actor"], entry.__dict__["action"]) for entry in caplog.records]
    assert lines == [("anonymous", "login"), ("ada", "retry-task")]
    assert "\n" not in caplog.records[0].getMessage()
    login, retry = await entries(client, auth=USER)
    assert told(login, "actor", "method", "target", "outcome", "status") == (
        None, None, "eve\nforged line", "refused", 401,
    )  # fmt: skip
    assert told(retry, "actor", "method", "action", "task_id", "outcome", "status") == (
        "ada", "basic", "retry-task", record.task_id, "done", 202,
    )  # fmt: skip
    assert retry["route"] == "POST /tasks/{task_id}/retry"
    assert retry["detail"] == f"as {engine.records[record.task_id].retried_by}"
    assert retry["client"] == "127.0.0.1"


async def test_a_session_is_audited_from_its_login_to_its_logout(client_of: ClientOf, engine: House) -> None:
    client = client_of(auth=USER)
    await client.post("/tasks/login", data=FORM)
    csrf = (await client.get("/tasks/session")).json()["csrf_token"]
    await client.post("/tasks/queues/mail/pause?reason=too%20many%20bounces", headers={"X-CSRF-Token": csrf})
    await client.post("/tasks/queues/mail/resume")
    await client.post("/tasks/logout", headers={"X-CSRF-Token": csrf})
    found = await entries(client, auth=USER)
    assert [told(entry, "actor", "action", "target", "outcome", "status") for entry in found] == [
        ("ada", "login", "ada", "done", 303),
        ("ada", "pause-queue", "mail", "done", 200),
        ("ada", "resume-queue", "mail", "refused", 403),
        ("ada", "logout", "ada", "done", 204),
    ]
    assert [entry["reason"] for entry in found] == [None, "too many bounces", None, None]
    assert "X-CSRF-Token" in found[2]["detail"]


async def test_what_is_refused_is_audited_with_the_reason(client_of: ClientOf, engine: House) -> None:
    running = engine.put(make_record(status=TaskStatus.RUNNING))
    client = client_of(auth=Directory())
    ada, vic = ("ada", "right"), ("vic", "right")
    await client.post("/tasks/none/cancel", auth=ada)
    await client.post(f"/tasks/{running.task_id}/retry", auth=ada)
    await client.post("/tasks/retry-failed?sinec=1s", auth=ada)
    await client.post("/tasks/bulk-retry", content=b"{", headers={"Content-Type": "application/json"}, auth=ada)
    await client.request("DELETE", "/tasks/history", auth=vic)
    await client.request("DELETE", "/tasks/history")
    found = await entries(client, auth=vic)
    assert [told(entry, "actor", "action", "outcome", "status") for entry in found] == [
        ("ada", "cancel-task", "refused", 404),
        ("ada", "retry-task", "refused", 409),
        ("ada", "retry-failed", "refused", 422),
        ("ada", "bulk-retry", "refused", 422),
        ("vic", "delete-history", "refused", 403),
        (None, "delete-history", "refused", 401),
    ]
    assert "did you mean 'since'" in found[2]["detail"]
    assert all(entry["detail"] for entry in found)


async def test_reading_and_counting_are_not_audited(client: httpx.AsyncClient, engine: House) -> None:
    for path in ("", "/queues", "/stats", "/nothing", "/audit"):
        await client.get(f"/tasks{path}")
    await client.post("/tasks/retry-failed?dry_run=true")
    assert await entries(client) == []


async def test_a_failed_action_during_an_outage_is_audited_once_it_ends(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(_: object) -> None:
        raise BackendUnavailableError("down")

    with monkeypatch.context() as outage:
        outage.setattr(engine.backend.audit_store, "add", down)
        engine.backend.unreadable = BackendUnavailableError("down")
        assert (await client.post("/tasks/some-task/cancel")).status_code == 503
        assert (await client.get("/tasks/audit")).status_code == 503
    engine.backend.unreadable = None
    [entry] = await entries(client)
    assert told(entry, "action", "outcome", "status", "task_id") == ("cancel-task", "failed", 503, "some-task")
