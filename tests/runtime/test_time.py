"""Time comes from one place, and into each part in one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "taskflow_otel"
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}

READINGS = {
    f"{module}.{name}"
    for module, names in {
        "time": ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"),
        "datetime": ("now", "utcnow", "today"),
        "date": ("today",),
        "datetime.datetime": ("now", "utcnow", "today"),
    }.items()
    for name in names
}
OF_THE_MACHINE = {
    "runtime/clock.py": "it is the clock",
    "model/ids.py": "an id has to be new in the ledger, whatever clock a test turns",
    "backends/sql/statements.py": "compared with what other instances have written",
    "engine/executors/process_spans.py": "spans of a child process, beside those that an SDK makes",
    "client/sync_connection.py": "a program without a loop waits until it connects to the live stream again",
    "testing/backends/fleet.py": "backends whose server has a clock of its own",
}
"""The modules that ask the machine for the time, and why no clock is given to them."""


def readings(tree: ast.Module) -> set[str]:
    """Where a module asks for the time without a clock."""
    found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & READINGS
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_module_but_those_with_a_reason_asks_the_machine_for_the_time(module: str) -> None:
    assert bool(readings(ast.parse(MODULES[module].read_text()))) == (module in OF_THE_MACHINE)


def parameters(tree: ast.Module) -> Iterator[ast.arg]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)


@pytest.mark.parametrize("module", MODULES)
def test_a_part_is_given_the_time_as_a_clock_and_by_that_name(module: str) -> None:
    for parameter in parameters(ast.parse(MODULES[module].read_text())):
        annotation = "" if parameter.annotation is None else ast.unparse(parameter.annotation)
        is_clock = annotation in ("Clock", "Clock | None", "FakeClock", "FakeClock | None")
        assert (parameter.arg == "clock") == is_clock, f"line {parameter.lineno}: {parameter.arg}: {annotation}"
        assert not (parameter.arg == "now" and "Callable" in annotation), f"line {parameter.lineno}"


@pytest.mark.parametrize("source", ["import time\ntime.time()", "from time import monotonic", "datetime.now(UTC)"])
def test_each_way_to_ask_the_machine_is_found(source: str) -> None:
    assert readings(ast.parse(source))
