"""The command `python -m benchmarks`: what it writes to its file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.suite import report, runner
from benchmarks.suite.kinds import Row


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(rows: list[Row], *, rounds: int, **_: Any) -> Iterator[tuple[Row, dict[str, Any]]]:
        for row in rows:
            yield row, {
                "what": row.what, "unit": row.unit, "rounds": rounds, "cases": {}, "missing": {}, "ratio": None,
                "budget": None, "met": None,
            }  # fmt: skip

    monkeypatch.setattr(runner, "measure", measure)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    command.main()


@pytest.mark.usefixtures("measured")
def test_rows_that_are_not_measured_again_are_kept_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run(monkeypatch, "--only", "memory", "sqlite", "--rounds", "3", "--json", str(file))
    run(monkeypatch, "--only", "sqlite", "--rounds", "5", "--json", str(file), "--keep")
    found = json.loads(file.read_text())
    assert {name: row["rounds"] for name, row in found["rows"].items()} == {"memory": 3, "sqlite": 5}
    assert {row["commit"] for row in found["rows"].values()} == {report.commit(runner.ROOT)}
    run(monkeypatch, "--only", "stall", "--rounds", "3", "--json", str(file))
    assert list(json.loads(file.read_text())["rows"]) == ["stall"]


@pytest.mark.usefixtures("measured")
def test_the_file_of_a_quick_run_says_so_whatever_is_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run(monkeypatch, "--only", "memory", "--quick", "--json", str(file))
    run(monkeypatch, "--only", "sqlite", "--json", str(file), "--keep")
    assert json.loads(file.read_text())["quick"] is True


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert report.commit(tmp_path) == "unknown"
