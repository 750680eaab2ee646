"""The page about contributing names the files of five changes; each touches at most three, and works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contributing.changes import CHANGES, Change

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contributing.md"
LINT_IMPORTS = "-c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache"
COPIED = ("taskflow_otel", "tests", "docs", "pyproject.toml", "CHANGELOG.md", "README.md")


def named_files(title: str) -> set[str]:
    """The files that the page names for a change."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return {re.split(r"[`:]", line)[1] for line in section.splitlines() if line.startswith("* `")}


def run(project: Path, command: str) -> None:
    """Run a Python command in the copy of the project."""
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        f"{sys.executable} {command}",
        shell=True,
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4_000:]}\n{done.stderr[-4_000:]}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.title)
def test_a_change_touches_the_files_that_the_page_names_and_at_most_three(change: Change) -> None:
    touched = {re.sub(r"/(tally|plain)\.py$", "/NAME.py", name) for name in change.files}
    named = named_files(change.title)
    assert touched <= named
    assert len(named) <= 3


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.title)
def test_a_change_works_with_the_files_that_the_page_names_alone(change: Change, project: Path) -> None:
    change.apply(project)
    for command in change.commands:
        run(project, command)
    (project / "tests" / "test_probe.py").write_text(change.probe)
    run(project, LINT_IMPORTS)
    run(project, f"-m pytest -q -x -p no:cacheprovider tests/test_probe.py {' '.join(change.tests)}")
