"""A task takes no more instructions than its baseline and the margin, whatever the machine is doing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.instructions import BASELINE, MARGIN, compare, interpreter
from tests.servers import find_binary

ROOT = Path(__file__).parents[2]
KEPT = json.loads(BASELINE.read_text())
SLICE = ("memory",)
"""What the suite can afford to count: `make instructions` counts every workload."""


def test_a_task_in_memory_takes_no_more_than_the_margin_above_its_baseline() -> None:
    find_binary("valgrind", "valgrind")
    if KEPT["interpreter"] != interpreter():
        pytest.skip(f"the baseline is of {KEPT['interpreter']}, this is {interpreter()}")
    command = [sys.executable, "-m", "benchmarks.instructions", "--check", *SLICE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "instructions per task" in done.stdout


def test_a_workload_beyond_the_margin_is_named_and_one_within_it_is_not() -> None:
    kept = KEPT["workloads"]["memory"]["instructions_per_task"]
    above = {"memory": {"instructions_per_task": int(kept * (1 + MARGIN)) + 1}}
    [sentence] = compare(above, KEPT)
    assert sentence.startswith("memory: ")
    assert f"up to {MARGIN:+.0%} is allowed" in sentence
    assert compare({"memory": {"instructions_per_task": int(kept * (1 + MARGIN))}}, KEPT) == []
