"""Every row of the benchmarks measures what it names: its programs run, and their figures are found."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Awaitable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import find_probe
from benchmarks.suite import report
from benchmarks.suite.kinds import BUDGETS, Budget, Case
from benchmarks.suite.rows import ROWS, find
from benchmarks.suite.runner import Servers, measure, run, spread

ROOT = Path(__file__).parents[2]
NAMES = [row.name for row in ROWS]

# The first test runs the programs of all rows, those of the others' libraries too.
pytestmark = pytest.mark.timeout(900)


def answer(case: Case, quick: bool, servers: Servers) -> Any:
    """Run a case in this process if it may, which spares a start of the interpreter."""
    module, *arguments = case.quick
    if case.peer or module != "benchmarks.measure" or arguments[0] in {"imports", "memory-growth", "watched", "scrape"}:
        return run(case, quick, servers)
    kind, what, _, size = arguments
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        if case.server is not None:
            patch.setenv("BENCHMARK_URL", servers.url(case.server))
        return asyncio.run(in_order(find_probe(kind)(what, int(size), Path(directory))))


async def in_order(probe: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return await probe


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """All rows in one run. A program that several rows ask for runs once."""
    known: dict[tuple[str, ...], Any] = {}

    def answer_once(case: Case, quick: bool, servers: Servers) -> Any:
        if case.quick not in known:
            known[case.quick] = answer(case, quick, servers)
        return known[case.quick]

    return {row.name: found for row, found in measure(ROWS, rounds=1, quick=True, answer=answer_once)}


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_of_each_row_finds_its_figures(name: str, results: dict[str, dict[str, Any]]) -> None:
    [row] = find([name])
    found = results[name]
    json.dumps(found, allow_nan=False)
    may_be_absent = {case.label for case in row.cases if case.peer or case.tool or case.server}
    assert set(found["missing"]) <= may_be_absent, found["missing"]
    if found["cases"]:
        assert set(found["cases"]) == {case.label for case in row.cases} - set(found["missing"])
        assert all(math.isfinite(one["median"]) for one in found["cases"].values())
    assert report.line(name, found)


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    written = tmp_path / "found.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--rounds",
        "2",
        "--only",
        "sqlite",
        "--json",
        str(written),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(written.read_text())
    assert found["quick"] is True
    assert found["machine"]["cores"]
    assert found["versions"]["python"]
    row = found["rows"]["sqlite"]
    assert row["rounds"] == 2 == len(row["found"]["ours"])
    assert set(row["ratio"]) == {"median", "q1", "q3"}
    assert f"budget {row['budget']}" in " ".join(done.stdout.split())


def test_the_library_of_another_checkout_is_measured_by_the_programs_of_this_one(tmp_path: Path) -> None:
    other = tmp_path / "taskflow_otel"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('this is the other library')")
    with ExitStack() as stack, pytest.raises(LookupError, match="this is the other library"):
        run(find(["sqlite"])[0].cases[0], True, Servers(stack), tmp_path)


def test_a_row_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(LookupError, match="no row is named nothing; the rows: memory, "):
        find(["nothing"])


def test_every_budget_belongs_to_a_row_and_every_row_with_a_ratio_has_a_reference() -> None:
    assert set(BUDGETS) <= {row.name for row in ROWS}
    assert all(len(row.cases) > 1 for row in ROWS if row.ratio is not None)
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("bound", "met"), [("at least", [False, True, True]), ("at most", [True, True, False])])
def test_a_budget_includes_its_bound(bound: str, met: list[bool]) -> None:
    budget = Budget("at least" if bound == "at least" else "at most", 2.0)
    assert [budget.met(value) for value in (1.9, 2.0, 2.1)] == met


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert spread([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0}
