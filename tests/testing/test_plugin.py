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
    done = run("pytest", "-q", "-rp", *PLUGIN, users_tests.name, cwd=users_tests.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = set(re.findall(r"^PASSED test_page\.py::([\w:]+)", done.stdout, re.MULTILINE))
    written = set(re.findall(r"^(?:async )?def (test_\w+)", users_tests.read_text(), re.MULTILINE))
    assert len(written) == 8
    assert {name for name in passed if "::" not in name} == written
    assert {name.partition("::")[0] for name in passed - written} == {"TestNotebookBackend"}


def test_the_examples_of_the_page_type_check(users_tests: Path) -> None:
    done = run("mypy", "--strict", *copied_cache(users_tests.parent), str(users_tests), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plugin_loads_nothing_until_a_fixture_is_used() -> None:
    program = "import sys, taskflow_otel.testing.plugin; print(*[one for one in sys.modules if 'taskflow' in one])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        "taskflow_otel", "taskflow_otel.errors", "taskflow_otel.version", "taskflow_otel.testing",
        "taskflow_otel.testing.plugin",
    }  # fmt: skip
