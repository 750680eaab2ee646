"""`TaskAdmin`: mounts a manager on an application."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, routing
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from starlette.applications import Starlette

from taskflow_otel import ConfigurationError, ManagedBackgroundTasks, TaskAdmin, TaskManager
from tests.asgi import Exchange, post, running
from tests.web.users import USER


@pytest.mark.parametrize(("options", "warns"), [({}, True), ({"read_only": True}, True), ({"auth": USER}, False)])
def test_an_open_administration_says_so_at_start(
    caplog: pytest.LogCaptureFixture, options: dict[str, Any], warns: bool
) -> None:
    TaskAdmin(FastAPI(), TaskManager(), **options)
    assert any("is open to everyone" in message for message in caplog.messages) is warns


async def test_the_first_request_builds_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastAPI()
    TaskAdmin(app, TaskManager())
    built: list[str] = []

    def build(**parts: Any) -> Dependant:
        built.append(parts["path"])
        return get_dependant(**parts)

    monkeypatch.setattr(routing, "get_dependant", build)
    async with running(app):
        assert (await Exchange(app, "/tasks", method="GET").run()).status == 200
    assert built == []
    # What would have been noticed.
    app.get("/late")(lambda: None)
    assert built == ["/late"]


@pytest.mark.parametrize("path", ["", "/dashboard", "/static/app.js", "/metrics", "/livez", "/events", "/nowhere"])
async def test_a_dependency_of_the_whole_application_that_refuses_closes_the_administration(path: str) -> None:
    asked: list[str] = []

    async def refuse(request: Request) -> None:
        asked.append(request.url.path)
        raise HTTPException(401, "who are you?")

    app = FastAPI(dependencies=[Depends(refuse)])
    TaskAdmin(app, TaskManager())
    async with running(app):
        assert (await Exchange(app, f"/tasks{path}", method="GET").run()).status == 401
    assert asked == [f"/tasks{path}"]


@pytest.mark.parametrize("auto_install", [True, False])
async def test_the_manager_runs_as_long_as_the_application_and_manages_native_tasks_where_asked_to(
    auto_install: bool,
) -> None:
    manager, app = TaskManager(), FastAPI()
    given: list[type] = []

    @app.post("/")
    async def route(tasks: BackgroundTasks) -> None:
        given.append(type(tasks))

    TaskAdmin(app, manager, auto_install=auto_install)
    async with running(app):
        assert manager.engine.state == "running"
        await post(app, "/")
    assert given == [ManagedBackgroundTasks if auto_install else BackgroundTasks]
    assert manager.engine.state == "stopped"


def test_the_administration_may_say_how_long_finished_tasks_are_kept() -> None:
    manager = TaskManager(retention_days=30)
    TaskAdmin(FastAPI(), manager, retention_days=7)
    assert manager.engine.cleaner.retention == timedelta(days=7)
    other = TaskManager()
    TaskAdmin(FastAPI(), other)
    assert other.engine.cleaner.retention is None
    with pytest.raises(ConfigurationError, match="retention_days"):
        TaskAdmin(FastAPI(), TaskManager(), retention_days=0)


@pytest.mark.parametrize("mount", [lambda app: TaskAdmin(app, TaskManager()), TaskManager().init_app])
def test_another_kind_of_application_is_refused_with_the_way_out(mount: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"not starlette\.applications\.Starlette.*outer\.mount"):
        mount(Starlette())


def test_the_document_of_the_application_may_leave_the_administration_out() -> None:
    app = FastAPI()
    TaskAdmin(app, TaskManager(), include_in_schema=False)
    assert app.openapi()["paths"] == {}


def test_two_administrations_at_one_path_are_refused_and_at_two_paths_are_not() -> None:
    app = FastAPI()
    TaskAdmin(app, TaskManager())
    with pytest.raises(ConfigurationError, match=r"has an administration at /tasks already.*path='/other-tasks'"):
        TaskAdmin(app, TaskManager())
    TaskAdmin(app, TaskManager(), path="/other-tasks")
    TaskAdmin(FastAPI(), TaskManager())
