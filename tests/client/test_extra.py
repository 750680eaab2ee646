"""Without httpx, the client and the commands that use it name the extra that installs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules['httpx'] = None; "
LINE = "pip install 'taskflow-otel[client]'"


@pytest.mark.parametrize("module", ["taskflow_otel.client", "taskflow_otel.client.sync", "taskflow_otel.client.rules"])
def test_the_import_names_the_extra(module: str) -> None:
    lines = [
        "from taskflow_otel import MissingExtraError",
        "try:",
        f" import {module}",
        "except MissingExtraError as e: print(e)",
    ]
    program = WITHOUT + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert LINE in done.stdout


def test_a_command_that_needs_it_ends_with_one_line() -> None:
    program = (
        f"{WITHOUT}from taskflow_otel.cli.main import main; sys.exit(main(['ls', '--url', 'http://localhost/tasks']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert LINE in line
