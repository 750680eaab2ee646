"""Settings of the administration are checked where they are given."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel import TaskManager
from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import ConfigurationError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": "tasks"}, "slash"),
        ({"path": "/tasks/"}, "slash"),
        ({"path": "/"}, "slash"),
        ({"path": ""}, "slash"),
        ({"path": "/{x}"}, "path"),
        ({"path": None}, "path"),
        ({"path": b"/tasks"}, "path"),
        *(
            ({"path": path}, "browsers resolve")
            for path in (
                "/..",
                "/.",
                "/a/..",
                "/../a",
                "/a/./b",
                "//tasks",
                "//evil.example",
                "/a//b",
                "/tasks?x=1",
                "/tasks#x",
                "/tasks;x",
                "/a b",
                "/tasks\n",
                "/%2e%2e",
                "http://x/tasks",
                "\\\\tasks",
                "/t\u00e4sks",
            )
        ),
        ({"allowed_hosts": "tasks.example.com"}, "allowed_hosts must be a list"),
        ({"allowed_hosts": ["http://tasks.example.com"]}, "without scheme and port"),
        ({"title": " "}, "title"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"trace_url": "javascript:alert('{trace_id}')"}, "trace_url"),
        ({"trace_url": "http://localhost/trace"}, "trace_url"),
        ({"log_url": "javascript:alert('{task_id}')"}, "log_url"),
        ({"log_url": "http://localhost/logs?from={from}"}, "log_url must .* {task_id} or {trace_id}"),
        ({"log_url": 7}, "log_url"),
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
    manager = TaskManager()
    app = FastAPI()
    before = list(app.routes)
    with pytest.raises(ConfigurationError, match=says):
        TaskAdmin(app, manager, **options)
    assert app.routes == before


@pytest.mark.parametrize("path", ["/tasks", "/a/b", "/...", "/.well-known", "/a..b", "/~x-1_2"])
def test_a_path_that_every_browser_keeps_as_it_is_can_be_used(path: str) -> None:
    assert TaskAdmin(FastAPI(), TaskManager(), path).settings.path == path
