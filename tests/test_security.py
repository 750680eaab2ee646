"""`SECURITY.md` states what is so."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.version import __version__
from taskflow_otel.web.hosts import Hosts
from tests.asgi import running
from tests.web.routes import every_route
from tests.web.users import Directory

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()
PUBLIC = {
    "/tasks/livez",
    "/tasks/readyz",
    "/tasks/login",
    "/tasks/problems",
    "/tasks/static/{name}",
    "/tasks/dashboard",
    "/tasks/dashboard/",
}
"""What needs no login: probes, the form, explanations, the files, and the page, which leads to the form."""


def test_the_version_that_gets_fixes_is_the_current_one() -> None:
    major, minor, _ = __version__.split(".")
    assert f"| {major}.{minor}.x | yes |" in PAGE


def test_the_options_that_the_page_names_exist() -> None:
    options = {*inspect.signature(TaskAdmin).parameters, *inspect.signature(TaskManager).parameters}
    named = {name for name in re.findall(r"`(?:TaskAdmin\([^`]*?)?(\w+)=[^`]*`", PAGE) if name.islower()} | {
        "metrics_token"
    }
    assert {"auth", "allowed_hosts", "encrypt_args_key", "read_only", "display_func_args"} <= named
    assert named <= options


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    app = FastAPI()
    TaskAdmin(app, TaskManager(), auth=Directory(), metrics_token="scrape-me")
    async with running(app):
        yield app


def routes(app: FastAPI) -> list[tuple[str, str]]:
    # The stream does not end by itself; its guard is the one of the other readings, which the tests of the API check.
    return [(method, path) for method, path in every_route(app) if path != "/tasks/events"]


@pytest.mark.parametrize("who", ["nobody", "metrics token", "viewer"])
async def test_nobody_reads_without_a_login_and_a_viewer_changes_nothing(app: FastAPI, who: str) -> None:
    sent: dict[str, Any] = {}
    if who == "metrics token":
        sent["headers"] = {"Authorization": "Bearer scrape-me"}
    if who == "viewer":
        sent["auth"] = ("vic", "right")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", **sent) as client:
        for method, path in routes(app):
            status = (
                await client.request(
                    method, path.format(task_id="x", operation_id="x", fingerprint="0" * 16, name="default")
                )
            ).status_code
            what = (method, path, status)
            if path in PUBLIC:
                assert status not in {403, 500}, what
            elif who == "viewer":
                acts = method not in {"GET", "HEAD"} and path != "/tasks/logout"
                assert (status == 403) is acts, what
            else:
                assert status == (200 if (who, path) == ("metrics token", "/tasks/metrics") else 401), what


def test_the_names_under_which_an_open_installation_answers_are_those_of_the_page() -> None:
    hosts = Hosts(None, is_open=True)
    [sentence] = re.findall(r"These are IP addresses,.*?`\.internal`\.", PAGE, re.DOTALL)
    named = re.findall(r"`([^`]+)`", sentence)
    assert named == ["app", "testserver", "localhost", ".localhost", ".internal"]
    for name in named:
        assert hosts.allows(f"x{name}" if name.startswith(".") else name)
    assert hosts.allows("192.0.2.1")
    assert not hosts.allows("tasks.example.com")


def test_no_pickle_is_read_from_a_database() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "taskflow_otel").rglob("*.py")
        if {"pickle", "cloudpickle", "marshal", "shelve"}
        & {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
    }
    # Between a process and its own children.
    assert {Path(reader).parent.name for reader in readers} == {"executors"}


def test_each_line_that_bandit_ignores_has_its_reason() -> None:
    ignored = [
        (path.name, line.strip())
        for path in (ROOT / "taskflow_otel").rglob("*.py")
        for line in path.read_text().splitlines()
        if "# nosec" in line
    ]
    assert [line for line in ignored if not re.search(r"# nosec B\d{3}(?:, ?B\d{3})*  ?# \w+", line[1])] == []
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["bandit"]
    text = (ROOT / "pyproject.toml").read_text()
    for skipped in settings.get("skips", []):
        assert re.search(rf'"{skipped}",  ?# \w+', text), f"{skipped} has no reason"
