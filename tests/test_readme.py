"""The README is true: its quick start runs word for word. `test_docs.py` checks its code as that of all pages."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

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
    _, start, requests, _ = blocks("bash", "Quick start")
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


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', README)
    assert len(pictures) == 2
    assert {name: size for name in pictures if (size := (ROOT / name).stat().st_size) > 200_000} == {}


def test_the_page_of_a_package_index_has_no_link_that_leads_nowhere() -> None:
    spec = importlib.util.spec_from_file_location("index_page", ROOT / ".ci" / "index_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.index_page(README)
    assert [target for target in re.findall(r"\]\(([^)\s]+)\)", page) if "://" not in target] == []
    assert "<img" not in page
    assert "Guarantees (`docs/guarantees.md`)" in page
