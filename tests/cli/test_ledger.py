"""`ls`, `show`, `logs`, `stats` and `instances` read a backend, and answer as the API of an application does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from taskflow_otel import TaskManager, TaskStatus, task_log
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.cli.main import main
from tests.managers import started


async def filled(path: Path, namespace: str | None = None) -> list[str]:
    """Two tasks in a database: one that succeeded and one that failed."""
    manager = TaskManager(snapshot_backend=SqliteBackend(path, namespace=namespace))

    @manager.task(persist=True)
    async def good() -> None:
        task_log("one")
        task_log("two")

    @manager.task(persist=True)
    async def bad() -> None:
        raise OSError("no paper")

    async with started(manager):
        ids = [await manager.enqueue(one) for one in (good, bad)]
        ends = [(await manager.wait(one)).status for one in ids]
    assert ends == [TaskStatus.SUCCESS, TaskStatus.FAILED]
    return ids


def test_a_backend_is_read_without_an_application(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address of an application does not matter: the backend is what was asked for.
    monkeypatch.setenv("TASKFLOW_URL", "http://127.0.0.1:1/tasks")
    path = tmp_path / "tasks.db"
    good, bad = asyncio.run(filled(path))

    def lines(*arguments: str) -> list[str]:
        assert main([*arguments, "--backend", str(path)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    assert [line[:36] for line in lines("ls")] == [bad, good]
    assert [json.loads(line)["task_id"] for line in lines("ls", "--json", "--limit", "1")] == [bad]
    [failed] = lines("ls", "--status", "failed", "--since", "1h")
    assert failed.endswith("bad  OSError: no paper")
    assert main(["ls", "--args", "order:782", "--backend", str(path)]) == 2
    assert "--args needs an application that displays arguments" in capsys.readouterr().err
    assert [line.split()[-1] for line in lines("logs", good)] == ["one", "two"]
    assert [line.split()[-1] for line in lines("logs", "-f", good)] == ["one", "two"]
    assert [json.loads(line)["seq"] for line in lines("logs", good, "--json")] == [0, 1]
    assert any("OSError: no paper" in line for line in lines("show", bad))
    assert dict(line.split(None, 1) for line in lines("stats", "--func-name", "bad"))["total"] == "1"
    assert lines("instances")[0].startswith("instance_id")
    unknown = good[:-4] + ("0000" if good[-4:] != "0000" else "1111")
    assert main(["show", unknown, "--backend", str(path)]) == 2
    assert unknown in capsys.readouterr().err


def test_an_application_in_a_namespace_is_read_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tasks.db"
    asyncio.run(filled(path, "shop"))
    total = {}
    for namespace in ([], ["--namespace", "shop"], ["--namespace", "other"]):
        assert main(["stats", "--json", "--backend", str(path), *namespace]) == 0
        total[" ".join(namespace)] = json.loads(capsys.readouterr().out)["total"]
        assert main(["doctor", "--backend", str(path), *namespace]) == 0
        assert main(["reconcile", "--backend", str(path), *namespace]) == 0
        capsys.readouterr()
    assert total == {"": 0, "--namespace shop": 2, "--namespace other": 0}
