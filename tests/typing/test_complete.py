"""Everything that the package shows has a type that every checker understands alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_types_of_the_package_are_complete() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--ignoreexternal", "--outputjson", "--verifytypes", "taskflow_otel"],
        cwd=ROOT,
        # Pyright finds the package through the environment's interpreter.
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "VIRTUAL_ENV": sys.prefix,
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    report = json.loads(checked.stdout)["typeCompleteness"]
    wrong = [
        f"{symbol['name']}: {problem['message']}"
        for symbol in report["symbols"]
        for problem in symbol["diagnostics"]
        if problem["severity"] == "error"
    ]
    assert wrong == []
    assert report["completenessScore"] == 1
