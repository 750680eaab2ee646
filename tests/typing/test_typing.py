"""What mypy and pyright say of user code: nothing of good code, and something of every wrong line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import ManagedBackgroundTasks, TaskArgumentError, TaskManager
from tests.managers import started
from tests.mypy_cache import copied_cache
from tests.typing import missed

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = [HERE / "good.py", HERE / "bad.py", HERE / "missed.py"]
MARKS = {"bad.py": "# wrong", "missed.py": "# missed"}
PAGE = ROOT / "docs/adding-tasks.md"

Errors = dict[str, dict[int, str]]
"""File name → line → message."""


def mypy(scratch: Path) -> Errors:
    """What `mypy --strict` says."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *copied_cache(scratch)]
    output = run(command)
    errors: Errors = {file.name: {} for file in FILES}
    for name, line, message in re.findall(r"([\w.]+):(\d+): error: (.*)", output):
        errors[name][int(line)] = message
    return errors


def pyright(_: Path) -> Errors:
    """What pyright says; the files themselves ask for its strict mode."""
    report = json.loads(run([sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]))
    assert report["summary"]["filesAnalyzed"] == len(FILES)
    errors: Errors = {file.name: {} for file in FILES}
    for one in report["generalDiagnostics"]:
        errors[Path(one["file"]).name][one["range"]["start"]["line"] + 1] = one["message"]
    return errors


def run(command: list[str]) -> str:
    """Run a checker over the files and return what it prints; a crash of its own is an error."""
    done = subprocess.run(
        [*command, *(str(file) for file in FILES)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=[mypy, pyright])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    """What each of the type checkers says."""
    found: Errors = request.param(tmp_path_factory.mktemp("cache"))
    return found


def test_good_code_is_clean(errors: Errors) -> None:
    assert errors["good.py"] == {}


def test_every_wrong_line_is_an_error_and_no_other(errors: Errors) -> None:
    lines = (HERE / "bad.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert errors["bad.py"].keys() == wrong


def test_what_no_checker_sees_is_counted_in_the_documentation(errors: Errors) -> None:
    assert errors["missed.py"] == {}
    found, missed = ((HERE / name).read_text().count(mark) for name, mark in MARKS.items())
    assert f"Of {found + missed} planted mistakes, both see {found}." in PAGE.read_text()


async def test_a_mistake_that_no_checker_sees_is_an_error_at_the_call() -> None:
    tasks: Any = ManagedBackgroundTasks(missed.task_manager)
    manager: Any = missed.task_manager
    calls: list[Callable[[], Any]] = [
        lambda: tasks.add_task(missed.send_email, priority=9),
        lambda: tasks.add_task(missed.send_email, "a", coppies=2, delay=1.0),
        lambda: manager.enqueue(missed.send_email, "a", 1, 2, priority=9),
        lambda: manager.schedule_once(missed.send_email, run_at=missed.soon),
        lambda: manager.schedule_once(missed.send_email, "a", coppies=2, run_at=missed.soon),
    ]
    async with started(missed.task_manager):
        for call in calls:
            with pytest.raises(TaskArgumentError, match="cannot be called with these arguments"):
                await call()


def test_a_decorated_function_is_the_function_itself() -> None:
    async def function(number: int) -> str:
        """Its own words."""
        return str(number)

    assert TaskManager().task(retries=1)(function) is function
