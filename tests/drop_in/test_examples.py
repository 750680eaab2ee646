"""Nine applications that are written for fastapi-taskflow run on this library, under an alias of its name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient

import taskflow_otel
import taskflow_otel.backends
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def alias(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name of the other package leads to this one, and its modules too."""
    monkeypatch.setitem(sys.modules, "fastapi_taskflow", taskflow_otel)
    monkeypatch.setitem(sys.modules, "fastapi_taskflow.models", taskflow_otel)
    monkeypatch.setitem(sys.modules, "fastapi_taskflow.backends", taskflow_otel.backends)
    monkeypatch.chdir(tmp_path)


class Running:
    """An application that runs, and its client."""

    def __init__(self, module: ModuleType, client: TestClient, tasks: str) -> None:
        self.module = module
        self.client = client
        self._tasks = tasks

    def add(self, route: str) -> str:
        """Call a route that answers with the id of its task."""
        answer = self.client.post(route)
        assert answer.status_code == 200, answer.text
        return str(answer.json())

    def task(self, task_id: str) -> dict[str, Any]:
        """The task, as the API shows it."""
        found: dict[str, Any] = self.client.get(f"{self._tasks}/{task_id}").json()
        return found

    def finished(self, task_id: str) -> dict[str, Any]:
        """The task, once it has finished."""
        wait_until(lambda: self.task(task_id)["status"] not in ("pending", "running"), "the end of the task")
        return self.task(task_id)


@contextmanager
def running(name: str, tasks: str = "/tasks") -> Iterator[Running]:
    sys.modules.pop(f"tests.drop_in.apps.{name}", None)
    module = importlib.import_module(f"tests.drop_in.apps.{name}")
    with TestClient(module.app) as client:
        yield Running(module, client, tasks)


def test_basic() -> None:
    with running("basic") as app:
        sent = app.finished(app.add("/signup?email=ada@example.com&plan=pro"))
        assert (sent["status"], sent["kwargs"], sent["tags"]) == (
            "success",
            {"address": "ada@example.com"},
            {"plan": "pro"},
        )
        hook = app.finished(app.add("/webhook"))
        assert (hook["status"], hook["args"]) == ("success", [{"event": "order.created", "id": 42}])
        assert Path("tasks.db").exists()
    record = app.module.task_manager.store.get(sent["task_id"])
    assert (record.args, record.kwargs, record.to_dict()["func_name"]) == (
        (),
        {"address": "ada@example.com"},
        "send_email",
    )


def test_resilience() -> None:
    with running("resilience") as app:
        assert app.finished(app.add("/welcome?user_id=1"))["status"] == "success"
        first = app.add("/sync?user_id=1&key=one")
        assert app.add("/sync?user_id=1&key=one") == first
        assert app.add("/sync?user_id=1") != app.add("/sync?user_id=1")


def test_task_logging() -> None:
    with running("task_logging") as app:
        failed = app.finished(app.add("/report?user_id=0"))
        assert (failed["status"], failed["error"], failed["retries_used"]) == ("failed", "no user 0", 1)
        assert [(line["message"], line["level"]) for line in failed["logs"]] == [
            ("started", "info"),
            ("no such user", "error"),
        ] * 2
        retried = app.finished(app.add("/inventory?user_id=7"))
        assert retried["status"] == "success"
        assert [line["extra"] for line in retried["logs"]] == [
            {"attempt": 0, "plan": "pro"},
            {"attempt": 1, "plan": "pro"},
        ]


def test_observability(capsys: pytest.CaptureFixture[str]) -> None:
    with running("observability") as app:
        good, bad = app.add("/invoice?user_id=1&amount=9.5"), app.add("/invoice?user_id=1&amount=0")
        assert app.finished(good)["status"] == "success"
        assert app.finished(bad)["status"] == "failed"
    pager, memory = app.module.pager, app.module.memory
    assert (pager.failed, pager.said) == (["invoice"], ["nothing to charge"])
    assert [event.message for event in memory.log_events] == ["charging", "charging", "nothing to charge"]
    assert {event.status.value for event in memory.lifecycle_events} == {"pending", "running", "success", "failed"}
    lines = Path("tasks.log").read_text().splitlines()
    assert {line.rpartition(" ")[2] for line in lines if " -- " in line} == {"PENDING", "RUNNING", "SUCCESS", "FAILED"}
    printed = capsys.readouterr().out
    assert "nothing to charge" in printed
    assert "-- FAILED" in printed
    assert "PENDING" not in printed


def test_named_queues() -> None:
    with running("named_queues") as app:
        first = app.add("/export?user_id=1")
        wait_until(lambda: app.task(first)["status"] == "running", "the first export")
        second = app.add("/export?user_id=2")
        assert app.client.post("/export?user_id=3").status_code == 429
        assert app.task(app.add("/export?user_id=4&queue=email"))["queue"] == "email"
        stats = app.client.get("/queue-stats").json()
        assert (stats["reports"]["running"], stats["reports"]["ready"]) == (1, 1)
        app.client.post("/finish")
        assert app.finished(second)["status"] == "success"


def test_encryption() -> None:
    with running("encryption") as app:
        paid = app.finished(app.add("/pay"))
        assert paid["logs"][0]["extra"] == {"user_id": 42, "right": True}
        assert (paid["args"], paid["kwargs"]) == (None, None)
        record = app.module.task_manager.store.get(paid["task_id"])
        assert (record.args, record.kwargs) == ((), {})
    assert b"tok_visa" not in Path("encrypted.db").read_bytes()


def test_priority() -> None:
    with running("priority") as app:
        tasks = [app.finished(app.add(route)) for route in ("/otp", "/notify", "/process", "/process?priority=10")]
        assert [task["status"] for task in tasks] == ["success"] * 4
        assert [task["priority"] for task in tasks] == [9, 5, 1, 10]


def test_scheduled() -> None:
    with running("scheduled") as app:
        wait_until(lambda: app.client.get("/tasks?func_name=health_check").json(), "the run at the start")
        assert app.finished(app.add("/cleanup"))["status"] == "success"
        app.client.post("/remind?address=ada&hours=1")
        app.client.post("/remind?address=bob&hours=3")
        [plan] = app.client.get("/planned?hours=2").json()
        assert (plan["run_key"], plan["func_name"], plan["tags"]) == ("ada", "remind", {"kind": "reminder"})
        assert plan["fire_at"] == plan["at"]
        assert app.client.delete("/remind?address=ada").json() is True
        assert app.client.get("/planned?hours=2").json() == []


def test_authentication() -> None:
    with running("authentication", "/admin") as app:
        assert app.client.get("/admin").status_code == 401
        app.client.auth = ("ada", "secret")
        task_id = app.add("/by-hand")
        assert app.finished(task_id)["status"] == "success"
        assert app.client.get("/admin/dashboard").text.count("Shop") >= 1
        other = app.client.portal.call(app.module.outside, 2) if app.client.portal else ""
        assert app.finished(str(other))["status"] == "success"
        assert sorted(app.module.done) == [1, 2]
        assert app.module.record(task_id).func_name == "count"
