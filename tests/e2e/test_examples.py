"""The examples are true: the lines of curl in each of them, in order, against the application."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from tests.procs import ROOT
from tests.waiting import wait_until

ENDS = {
    "authentication": [],
    "basic": ["success", "success"],
    "celery_workers": ["success", "success"],
    "database": ["cancelled", "success"],
    "encryption": ["success"],
    "migration": ["success"],
    "oauth2": [],
    "observability": ["failed", "success"],
    "processes": ["success"],
    "queues": ["success", "success"],
    "schedules": ["success", "success"],
    "transactions": ["success"],
    "workers": ["success", "success"],
}
"""How the tasks of each example end."""


def test_each_example_is_tried() -> None:
    there = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__", "demo", "demo_traces"}
    assert there == ENDS.keys()


@pytest.mark.parametrize("name", ENDS)
def test_the_lines_of_curl_are_answered_and_the_tasks_end(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "workers":
        monkeypatch.setenv("REDIS_URL", request.getfixturevalue("redis_url"))
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delitem(sys.modules, f"examples.{name}", raising=False)
    module = importlib.import_module(f"examples.{name}")
    if name == "celery_workers":
        # No worker runs beside the test.
        module.celery_app.conf.task_always_eager = True
    text = inspect.getdoc(module) or ""
    assert f"uvicorn examples.{name}:app" in text
    lines = re.findall(r"^\s*((?:TOKEN=\$\()?curl .*?)(?: # (\d+))?$", text, re.MULTILINE)
    assert len(lines) >= 2
    with TestClient(module.app) as client:
        token = ""
        for line, status in lines:
            # A line that keeps a token for the next ones: its answer is what `jq` would read.
            answer = curl(client, line.removeprefix("TOKEN=$(").partition(" | ")[0].replace("$TOKEN", token))
            # curl keeps no cookies.
            client.cookies.clear()
            if line.startswith("TOKEN="):
                token = answer.json()["access_token"]
            assert answer.status_code == int(status) if status else answer.is_success, f"{line}: {answer.text}"

        def ends() -> list[str]:
            found: list[dict[str, Any]] = client.get("/tasks").json() if ENDS[name] else []
            return sorted(task["status"] for task in found)

        wait_until(lambda: ends() == ENDS[name], f"the end of the tasks: {ENDS[name]}")


def curl(client: TestClient, line: str) -> Any:
    """Do what this line does."""
    words = shlex.split(line)[1:]
    method, headers, url, form = "GET", {}, "", ""
    while words:
        match words.pop(0):
            case "-X":
                method = words.pop(0)
            case "-s":
                pass
            case "-d":
                method, form = "POST", words.pop(0)
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            case "-H":
                key, _, value = words.pop(0).partition(": ")
                headers[key] = value
            case address:
                url = address
    parts = urlsplit(url)
    assert parts.netloc == "127.0.0.1:8000"
    return client.request(method, f"{parts.path}?{parts.query}", headers=headers, content=form)
