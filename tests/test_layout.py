"""The tests mirror the package: `taskflow_otel/engine/drain.py` is tested in `tests/engine/test_drain.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE, TESTS = ROOT / "taskflow_otel", ROOT / "tests"


class Elsewhere(NamedTuple):
    """Modules whose behaviour shows in another test file only, and why."""

    tests: str
    reason: str
    modules: tuple[str, ...]


ELSEWHERE = [
    Elsewhere(
        "backends/test_conformance.py",
        "The contract of backends, as a suite that every backend runs.",
        (
            "backends/admin.py",
            "backends/base.py",
            "backends/memory_admin.py",
            "backends/memory_pool.py",
            "backends/pool.py",
            "backends/redis/pool.py",
            "backends/sql/pool.py",
            "backends/sql/slots.py",
            "testing/backends/pool.py",
            "backends/failures.py",
            "backends/memory_failures.py",
            "backends/memory_figures.py",
            "backends/memory_spans.py",
            "backends/redis/spans.py",
            "backends/spans.py",
            "backends/sql/spans.py",
            "testing/backends/spans.py",
            "backends/redis/failures.py",
            "backends/sql/failures.py",
            "testing/backends/failures.py",
            "backends/redis/audit.py",
            "backends/redis/figures.py",
            "backends/redis/operations.py",
            "backends/sql/audit.py",
            "backends/sql/backend.py",
            "backends/sql/database.py",
            "backends/sql/operations.py",
            "testing/backends/admin.py",
            "testing/backends/figures.py",
            "testing/backends/fixtures.py",
            "testing/backends/fleet.py",
            "testing/backends/samples.py",
            "testing/backends/tasks.py",
        ),
    ),
    Elsewhere(
        "wire/test_bodies.py",
        "The shapes of all groups are held by the same rules.",
        ("wire/audit.py", "wire/bulk.py", "wire/figures.py", "wire/fleet.py", "wire/tasks.py"),
    ),
    Elsewhere(
        "web/test_failures_api.py",
        "The shapes of answers, as the API shows them.",
        ("wire/causes.py", "wire/failures.py"),
    ),
    Elsewhere(
        "web/test_retries_api.py",
        "The shapes of a request and an answer, as the API takes and shows them.",
        ("wire/retries.py",),
    ),
    Elsewhere(
        "web/test_running.py",
        "What runs now is read for its route alone.",
        ("web/running_api.py", "wire/running.py"),
    ),
    Elsewhere(
        "web/test_traces_api.py",
        "The shape of the answer, as the API shows it.",
        ("wire/traces.py",),
    ),
    Elsewhere(
        "web/test_task_types.py",
        "The shapes of answers, as the API shows them.",
        ("web/types_api.py", "wire/task_types.py"),
    ),
    Elsewhere(
        "web/test_fleet_api.py",
        "The shape of an answer, as the API shows it.",
        ("wire/releases.py",),
    ),
    Elsewhere(
        "web/test_overview.py",
        "How seldom figures are read shows in what they are read for.",
        ("web/figures.py",),
    ),
    Elsewhere(
        "backends/redis/test_backend.py",
        "How queries are answered, as the backend shows.",
        ("backends/redis/search.py",),
    ),
    Elsewhere(
        "bus/test_bus.py",
        "The worker of an observer, and the classes that users inherit from: both show at the bus alone.",
        ("bus/contracts.py", "bus/worker.py"),
    ),
    Elsewhere(
        "backends/sql/test_statements.py",
        "A dialect shows in the statements that are made with it.",
        ("backends/sql/dialects.py",),
    ),
    Elsewhere(
        "engine/test_start_and_stop.py",
        "The parts that it builds, and what connects them, show when they start and stop together.",
        ("engine/engine.py",),
    ),
    Elsewhere(
        "engine/ledger/test_ledger.py",
        "Two halves of the ledger, which is their only way in.",
        ("engine/ledger/backlog.py", "engine/ledger/writer.py"),
    ),
    Elsewhere(
        "engine/test_control.py",
        "A table of who starts what; the tests of stopped attempts cover it.",
        ("engine/attempts.py",),
    ),
    Elsewhere(
        "exporters/otel/test_metrics.py",
        "Its metrics are sent to OpenTelemetry alone.",
        ("exporters/messaging.py",),
    ),
    Elsewhere(
        "exporters/test_signals.py",
        "What the rows of the table consist of.",
        ("exporters/specs.py",),
    ),
    Elsewhere(
        "metrics/test_fleet.py",
        "What processes store of their counts, read and add up shows on the pages of several.",
        ("metrics/books.py", "metrics/folding.py", "metrics/stored.py", "metrics/view.py"),
    ),
    Elsewhere(
        "metrics/test_targets.py",
        "What one target shows for others takes several targets.",
        ("metrics/elsewhere.py",),
    ),
    Elsewhere(
        "metrics/test_sources.py",
        "It answers what the metrics ask.",
        ("engine/vitals.py",),
    ),
    Elsewhere(
        "engine/executors/test_awaiting.py",
        "The contract of executors, and the shortest of them: it awaits.",
        ("engine/executors/base.py", "engine/executors/coroutines.py"),
    ),
    Elsewhere(
        "web/test_matrix.py",
        "What the document says of a route, and how it is answered, for each route and kind of caller.",
        ("web/documented.py", "web/problems_api.py", "web/schemes.py"),
    ),
    Elsewhere(
        "web/test_bulk_api.py",
        "Which tasks an action on many is about; it shows in what is acted on.",
        ("web/operations_api.py", "web/selection.py"),
    ),
    Elsewhere(
        "ledger/test_operations.py",
        "Bulk operations need a backend that is shared, and instances of which one dies.",
        ("engine/admin/office.py", "engine/admin/operations.py", "engine/admin/run.py", "engine/admin/work.py"),
    ),
    Elsewhere(
        "engine/fleet/test_news.py",
        "A bell rings in another process: it takes two instances, and a server.",
        ("backends/sql/postgres_bell.py",),
    ),
    Elsewhere(
        "engine/test_transactions.py",
        "How a task gets into the transaction of a caller shows where tasks are added, with each kind of session.",
        ("backends/transactions.py",),
    ),
    Elsewhere(
        "engine/schedules/test_firing.py",
        "The claim of a firing is a step of it.",
        ("engine/claims.py",),
    ),
    Elsewhere(
        "ledger/test_retries.py",
        "Which of several retries wins is decided by the backend, on each of them.",
        ("engine/retries.py",),
    ),
    Elsewhere(
        "ledger/test_lost_answers.py",
        "It needs a backend whose answer is lost, and instances that continue.",
        ("engine/late_commits.py",),
    ),
    Elsewhere(
        "exporters/lines/test_text.py",
        "What the observers that write lines have in common has no lines of its own.",
        ("exporters/lines/base.py",),
    ),
    Elsewhere(
        "e2e/test_failed_requests.py",
        "Hooks in FastAPI's handling of a request, which the tests of failed and successful requests cover.",
        ("request/endpoints.py", "request/stacks.py"),
    ),
    Elsewhere(
        "e2e/test_isolation.py",
        "Which applications a manager serves: it takes several in one process.",
        ("request/applications.py",),
    ),
    Elsewhere(
        "test_project.py",
        "A number, compared with the changelog and with what is installed.",
        ("version.py",),
    ),
    Elsewhere(
        "test_manager.py",
        "The half of TaskManager that asks its engine.",
        ("actions.py",),
    ),
    Elsewhere(
        "cli/test_main.py",
        "Two lines that call the command.",
        ("__main__.py",),
    ),
    Elsewhere(
        "test_bad_input.py",
        "Settings as plain data: what is wrong is refused where it is given.",
        ("engine/settings.py",),
    ),
    Elsewhere(
        "engine/fleet/test_pool_watch.py",
        "It builds the parts of shared queues, and connects them.",
        ("engine/sharing.py",),
    ),
    Elsewhere(
        "engine/fleet/test_takeover.py",
        "A protocol and two names of reasons.",
        ("engine/membership.py",),
    ),
    Elsewhere(
        "backends/test_conformance.py",
        "Plain data, and the filter that the suite compares backends with.",
        ("model/audit.py", "model/operation.py"),
    ),
    Elsewhere(
        "web/test_overview.py",
        "Protocols alone; the type checker compares the engine with them.",
        ("web/ports.py",),
    ),
    Elsewhere(
        "web/test_fleet.py",
        "Plain data, which instances leave for each other.",
        ("model/board.py",),
    ),
    Elsewhere(
        "model/test_replay.py",
        "Plain data without behaviour.",
        ("model/query.py", "model/trace.py"),
    ),
]
MODULES = sorted(
    str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
)  # `__init__.py` holds exports


def mirror(module: str) -> Path:
    """The test file of a module."""
    path = Path(module)
    return TESTS / path.parent / f"test_{path.name}"


def named_by(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, anywhere in it; programs in texts count where they import the package."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value == PACKAGE.name:
            yield f"{PACKAGE.name}.__main__"


@cache
def imported_by(path: Path) -> frozenset[Path]:
    """The files of the package and of the tests that a file imports itself."""
    found = set()
    for name in named_by(path):
        target = ROOT.joinpath(*name.split("."))
        for file in (target.with_suffix(".py"), target / "__init__.py"):
            if file.is_file() and file.is_relative_to(ROOT / name.split(".")[0]):
                found.add(file)
    return frozenset(found)


def reached_from(path: Path) -> set[Path]:
    """All that is imported, by the file or by what it imports."""
    reached: set[Path] = set()
    waiting = [path]
    while waiting:
        for file in imported_by(waiting.pop()) - reached:
            if file.is_relative_to(PACKAGE) or file.is_relative_to(TESTS):
                reached.add(file)
                waiting.append(file)
    return reached


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_test_file_of_its_name_or_a_reason_not_to(module: str) -> None:
    listed = [entry for entry in ELSEWHERE if module in entry.modules]
    if mirror(module).exists():
        assert listed == [], "it has a test file of its name now, so its entry can go"
    else:
        assert len(listed) == 1, f"write {mirror(module).relative_to(ROOT)}, or say in ELSEWHERE what tests it"


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: entry.tests)
def test_what_is_tested_elsewhere_is_there_and_reached_by_those_tests(entry: Elsewhere) -> None:
    tests = TESTS / entry.tests
    assert tests.is_file()
    assert entry.reason.endswith(".")
    assert [module for module in entry.modules if module not in MODULES] == []
    reached = reached_from(tests)
    assert [module for module in entry.modules if PACKAGE / module not in reached] == []


def test_a_test_file_lies_in_a_room_of_the_package_or_in_one_that_tests_across_rooms() -> None:
    across = {
        "apps",
        "benchmarks",
        "chaos",
        "contributing",
        "dashboards",
        "drop_in",
        "e2e",
        "faults",
        "ledger",
        "typing",
    }
    rooms = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("__init__.py")}
    found = {str(path.parent.relative_to(TESTS)) for path in TESTS.rglob("test_*.py")}
    assert found - rooms - across == set()


SLEEPS = {
    "waiting.py": "It polls, for all others.",
    "servers.py": "A port of a killed server is free a moment later, and nothing says when.",
}
"""The modules of tests that may let time pass, and why."""


def hopeful_sleeps(path: Path) -> Iterator[int]:
    """The lines on which a test lets time pass. A function inside another one stands for a user's, which may take time.

    `asyncio.sleep(0)` is no time but one turn of the event loop.
    """

    def look(node: ast.AST, depth: int) -> Iterator[int]:
        inner = depth + isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"asyncio.sleep", "time.sleep", "anyio.sleep"}:
            zero = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if depth < 2 and not zero:
                yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from look(child, inner)

    yield from look(ast.parse(path.read_text()), 0)


def test_no_test_waits_for_a_time_and_hopes() -> None:
    """Programs that tests start as processes of their own are no tests."""
    tests = [*TESTS.glob("*.py"), *TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")]
    found = {str(path.relative_to(TESTS)): lines for path in tests if (lines := list(hopeful_sleeps(path)))}
    assert {name: lines for name, lines in found.items() if name not in SLEEPS} == {}
    assert SLEEPS.keys() <= found.keys(), "an entry that is not needed any more"
