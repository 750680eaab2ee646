"""The command `worker`: real processes that run what web processes enqueue, and are killed while they do."""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from taskflow_otel.cli.main import main
from tests.procs import AppProcess, WorkerProcess
from tests.waiting import wait_until

APP = "tests.apps.workers_app:app"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def web(tmp_path: Path, database: Path) -> Iterator[AppProcess]:
    """A web process that runs no task."""
    with AppProcess(APP, tmp_path, env={"APP_DB": str(database), "TASKFLOW_RUN": "none"}) as process:
        yield process


def worker(directory: Path, database: Path, number: int, *arguments: str) -> WorkerProcess:
    """A worker that is not started."""
    (directory / str(number)).mkdir()
    return WorkerProcess(APP, directory / str(number), env={"APP_DB": str(database)}, arguments=arguments)


def enqueue(web: AppProcess, number: int) -> None:
    httpx.post(f"{web.url}/run/{number}", timeout=60).raise_for_status()


def statuses(database: Path) -> Counter[str]:
    """How many tasks of each status are stored."""
    with sqlite3.connect(database, timeout=30) as connection:
        return Counter(dict(connection.execute("select status, count(*) from taskflow_tasks group by status")))


def test_workers_that_are_killed_lose_no_task_and_end_none_twice(
    tmp_path: Path, database: Path, web: AppProcess
) -> None:
    first, second = (worker(tmp_path, database, number, "--concurrency", "4") for number in range(2))
    enqueue(web, 40)
    with first, second:
        wait_until(lambda: statuses(database)["success"] > 0, "the first outcome", timeout=60)
        enqueue(web, 40)
        first.kill()
        web.kill()
        web.start()
        enqueue(web, 20)
        ends = {"success", "failed", "interrupted"}
        wait_until(lambda: statuses(database).keys() <= ends, "all outcomes", timeout=90)
        # Each fourth task fails on purpose; if its process was killed while it ran, it is interrupted.
        found = statuses(database)
        assert (found.total(), found["success"]) == (100, 75)
        ended = httpx.get(f"{web.url}/tasks?status=success&limit=500", timeout=30).json()
        assert {one["instance"] for one in ended} & {i["instance_id"] for i in living(web, second.pid)}
        kinds = [{one["kind"] for one in living(web, process.pid)} for process in (web, second)]
        assert kinds == [{"web"}, {"worker"}]
        second.terminate()


def living(web: AppProcess, pid: int) -> list[dict[str, str]]:
    found = httpx.get(f"{web.url}/tasks/instances", timeout=30).json()
    return [one for one in found if one["pid"] == pid]


def test_a_worker_answers_probes_and_metrics_only(tmp_path: Path, database: Path) -> None:
    arguments = ("--queues", "default", "--concurrency", "3")
    with worker(tmp_path, database, 0, *arguments) as process, httpx.Client(base_url=process.url, timeout=30) as client:
        assert client.get("/tasks/livez").status_code == client.get("/tasks/readyz").status_code == 200
        assert "taskflow_build_info" in client.get("/tasks/metrics").text
        others = ["/", "/run/1", "/tasks", "/tasks/dashboard", "/health", "/run/metrics", "/tasks/queues/metrics"]
        for answer in [*map(client.get, others), client.post("/tasks/livez"), client.patch("/tasks/queues/metrics")]:
            assert (answer.status_code, "worker" in answer.text) == (404, True)
            assert answer.headers["x-content-type-options"] == "nosniff"
        process.terminate()
        [line] = [line for line in process.output.splitlines() if line.startswith("worker of ")]
        does = f"worker of {APP}: runs tasks of the queues default, 3 at once; probes and metrics on {process.url}"
        assert line == does


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tests.apps.nothing:app"], "nothing"),
        (["tests.aps.workers_app:app"], "there is no module 'tests.aps'"),
        (["..:app"], "is not MODULE:APP"),
        (["\x1b[31m:\n"], "is not MODULE:APP"),
        (["tests.apps.workers_app:nothing"], "nothing"),
        ([APP, "--concurrency", "0"], "TASKFLOW_CONCURRENCY"),
        ([APP, "--queues", "a,,b"], "the name of a queue"),
    ],
)
def test_a_wrong_argument_is_a_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TASKFLOW_RUN", "TASKFLOW_QUEUES", "TASKFLOW_CONCURRENCY", "TASKFLOW_KIND"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("APP_DB", str(tmp_path / "tasks.db"))
    assert main(["worker", *arguments]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("taskflow-otel: ")
    assert said in line


@pytest.mark.parametrize("port", ["70000", "0", "-1", "x"])
def test_a_wrong_port_is_a_sentence(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["worker", APP, f"--port={port}"])
    assert stopped.value.code == 2
    assert "is not a port from 1 to 65535" in capsys.readouterr().err
