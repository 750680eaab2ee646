"""`TaskAdmin`: mounts a manager on an application."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel.admin import TaskAdmin
from tests.web.stand_ins import FakeManager
from tests.web.users import USER


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
