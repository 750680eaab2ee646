"""The README is true: its quick start runs word for word, and the code of its tour type-checks and imports."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.procs import ROOT, AppProcess
from tests.servers import find_binary
from tests.waiting import wait_until

README = (ROOT / "README.md").read_text()


def blocks(language: str, section: str) -> list[str]:
    """The fenced blocks of one language below a second-level heading."""
    [text] = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_quick_start_runs_word_for_word(tmp_path: Path) -> None:
    curl = find_binary("curl", "curl")
    [program] = blocks("python", "Quick start")
    _, start, requests = blocks("bash", "Quick start")
    assert start.split() == [".venv/bin/uvicorn", "app:app", "--port", "8000"]
    (tmp_path / "app.py").write_text(program)

    with AppProcess("app:app", tmp_path, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as app:

        def run(line: str) -> str:
            words = shlex.split(line.replace("127.0.0.1:8000", f"127.0.0.1:{app.port}"))
            assert words[0] == "curl"
            return subprocess.run(
                [curl, "--silent", "--fail", *words[1:]], check=True, capture_output=True, text=True, timeout=30
            ).stdout

        signup, tasks, metrics = requests.splitlines()
        assert json.loads(run(signup)) == {"message": "welcome"}
        wait_until(lambda: json.loads(run(tasks))[0]["status"] == "success", "the success of the task")
        [task] = json.loads(run(tasks))
        assert (task["func_name"], task["retries_used"]) == ("send_email", 1)
        counts = run(metrics)
        assert re.search(r'^taskflow_tasks_enqueued_total\{.*task="send_email".*\} 1(\.0)?$', counts, re.MULTILINE)
        page = run(f"curl {app.url}/tasks/dashboard")
        assert "<html" in page


@pytest.mark.parametrize(
    "checker",
    [["mypy"], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_the_code_of_the_tour_type_checks(tmp_path: Path, checker: list[str]) -> None:
    """Each block of the tour, in order, below the imports that a reader would write; mypy is strict."""
    [quick_start] = blocks("python", "Quick start")
    imports = (
        "from datetime import datetime\nfrom typing import Annotated\nfrom fastapi import Depends\n"
        "from taskflow_otel import FileLogger, LifecycleEvent, ManagedBackgroundTasks, QueueConfig\n"
        "from taskflow_otel import TaskObserver, TaskStatus, configure_telemetry\n"
    )
    tour = "\n".join(blocks("python", "A tour"))
    (tmp_path / "tour.py").write_text(imports + quick_start + tour)
    checked = subprocess.run(
        [sys.executable, "-m", *checker, str(tmp_path / "tour.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
