"""The page about tests is true: its examples are a file of tests, which pytest runs with the plugin's fixtures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mypy_cache import copied_cache

ROOT = Path(__file__).parents[2]
# Not through the entry point, which an installation of this tree may have or not.
PLUGIN = ("-p", "no:taskflow_otel", "-p", "taskflow_otel.testing.plugin")
PAGE = (ROOT / "docs" / "testing.md").read_text()


@pytest.fixture
def users_tests(tmp_path: Path) -> Path:
    """The blocks of the page, as one file."""
    file = tmp_path / "test_page.py"
    file.write_text("\n\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    return file


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_examples_of_the_page_are_tests_that_pass(users_tests: Path) -> None:
    done = run("pytest", "-q", *PLUGIN, users_tests.name, cwd=users_tests.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout


def test_the_examples_of_the_page_type_check(users_tests: Path) -> None:
    done = run("mypy", "--strict", *copied_cache(users_tests.parent), str(users_tests), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plugin_loads_nothing_until_a_fixture_is_used() -> None:
    text = (ROOT / "taskflow_otel" / "testing" / "plugin.py").read_text()
    names = re.findall(r"^from (\S+) import|^import (\S+)", text, re.MULTILINE)
    assert {first or second for first, second in names} == {"__future__", "typing", "pytest"}
