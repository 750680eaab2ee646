"""Who did what: one log record for each action."""

from __future__ import annotations

import logging

import pytest

from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import USER


async def test_actions_and_logins_are_audited_with_their_actor(
    client_of: ClientOf, engine: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.audit")
    record = engine.put(make_record(status=TaskStatus.FAILED))
    client = client_of(auth=USER)
    await client.post("/tasks/login", data={"username": "eve\nforged line", "password": "x"})
    await client.post(f"/tasks/{record.task_id}/retry", auth=USER)
    entries = [(entry.__dict__["actor"], entry.__dict__["action"]) for entry in caplog.records]
    assert entries == [("anonymous", "login"), ("ada", "retry")]
    assert "\n" not in caplog.records[0].getMessage()
