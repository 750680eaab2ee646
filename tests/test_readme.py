"""The README is true: its quick start runs word for word, and something shows each of its sentences.

`test_docs.py` checks its code as that of all pages.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.suite.rows import ROWS
from tests.procs import ROOT, AppProcess
from tests.servers import find_binary
from tests.waiting import wait_until

README = (ROOT / "README.md").read_text()
CLAIMS = tomllib.loads((ROOT / "tests" / "claims.toml").read_text())
LINKS = {"Documentation", "Licence"}
"""Sections that only lead elsewhere."""


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


def test_the_task_of_the_quick_start_survives_kill_9_during_its_wait(tmp_path: Path) -> None:
    [program] = blocks("python", "Quick start")
    (tmp_path / "app.py").write_text(program)

    with AppProcess("app:app", tmp_path, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as app:

        def states() -> set[tuple[str, str | None]]:
            tasks = httpx.get(f"{app.url}/tasks", timeout=30).raise_for_status().json()
            return {(task["status"], task["reason"]) for task in tasks}

        def waits() -> bool:
            found = states()
            # On a slow machine, the wait of a task may be over before anyone has seen it.
            if found <= {("success", None)}:
                httpx.post(f"{app.url}/signup?email=ada@example.com", timeout=30).raise_for_status()
            return ("pending", "retry_wait") in found

        wait_until(waits, "the wait for a retry")
        app.kill()
        app.start()
        wait_until(lambda: states() == {("success", None)}, "the success of each task")


def sentences() -> Iterator[str]:
    """What the README says: its sentences, and the rows of its tables."""
    text = re.sub(r"^```.*?^```|<picture>.*?</picture>", "", README, flags=re.MULTILINE | re.DOTALL)
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if title in LINKS:
            continue
        body = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", body.replace("**", ""))
        for block in re.split(r"\n\n|\n(?=- |\|)", body):
            words = " ".join(block.split())
            if words.startswith("|"):
                # Not the head of a table, nor the line below it.
                if not re.match(r"\|( \||---| command)", words):
                    yield words.strip("| ")
            elif words:
                yield from re.split(r"(?<=[.?!]) ", words.removeprefix("- "))


def test_each_sentence_is_shown_by_something_that_exists() -> None:
    listed = [one["says"] for kind in ("claim", "other") for one in CLAIMS[kind]]
    assert sorted(listed) == sorted(sentences())
    assert all(one["why"] for one in CLAIMS["other"])
    rows = {row.name for row in ROWS}
    scripts = (ROOT / ".ci" / "run").read_text()
    for one in CLAIMS["claim"]:
        assert one["shown"], one
        for place in one["shown"]:
            path, _, test = place.partition("::")
            if place.startswith("bench "):
                assert place.removeprefix("bench ") in rows, place
            elif place.startswith(".ci/"):
                assert place == ".ci/run" or f"make {place.removeprefix('.ci/')}" in scripts, place
            else:
                tree = ast.parse((ROOT / path).read_text("utf-8"))
                functions = (ast.FunctionDef, ast.AsyncFunctionDef)
                assert test in {node.name for node in ast.walk(tree) if isinstance(node, functions)}, place


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
