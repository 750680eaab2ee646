"""Measures rows: each case in a fresh process, the cases of a row in turns."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.suite.kinds import Case, Row, Server, to_best

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "peers" / "bin" / "python"
"""The interpreter of the environment that `make peers` makes."""
ROUNDS = 7
_DURABLE: dict[Server, dict[str, str]] = {
    "redis": {},
    "postgres": {"fsync": "on", "full_page_writes": "on"},
    "mysql": {"innodb-flush-log-at-trx-commit": "1"},
}
"""Servers answer once a commit is on the disk, as they do where users run them."""
_LONGEST = 1_800.0


class Servers:
    """Real servers, each started when it is first asked for. Each case gets a new database."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[Server, Any] = {}

    def url(self, name: Server) -> str:
        """Of a new, empty database; raises `LookupError` if the server is not installed."""
        if name not in self._started:
            self._started[name] = self._start(name)
        server = self._started[name]
        if isinstance(server, LookupError):
            raise server
        url: str = server.fresh_url()
        return url

    def _start(self, name: Server) -> object:
        if importlib.util.find_spec("pytest") is None:
            return LookupError("the servers are those of the tests, which need pytest")
        import pytest

        from tests import servers

        kinds = {"redis": servers.RedisServer, "postgres": servers.PostgresServer, "mysql": servers.MariaDBServer}
        try:
            return self._stack.enter_context(kinds[name](_DURABLE[name]))
        except (pytest.skip.Exception, pytest.fail.Exception) as problem:
            return LookupError(str(problem))


Answer = Callable[[Case, bool, Servers], Any]
"""Runs a case, quickly or in full, and returns its JSON; raises `LookupError` if it could not be run."""


def measure(
    rows: Sequence[Row], *, rounds: int = ROUNDS, quick: bool = False, answer: Answer | None = None
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """What each row found, row by row. `answer` is how a case is run: in a process of its own unless given."""
    known: dict[tuple[object, ...], list[Any]] = {}
    with ExitStack() as stack:
        servers = Servers(stack)

        def ask(case: Case) -> Any:
            return (answer or run)(case, quick, servers)

        for row in rows:
            yield row, _row(row, row.rounds or rounds, ask, known)


def _row(
    row: Row, rounds: int, ask: Callable[[Case], Any], known: dict[tuple[object, ...], list[Any]]
) -> dict[str, Any]:
    result: dict[str, Any] = {"what": row.what, "unit": row.unit, "note": row.note, "rounds": rounds}
    result["budget"] = None if row.budget is None else str(row.budget)
    missing = {case.label: reason for case in row.cases if (reason := _missing(case))}
    ours = row.cases[0]
    # Rows that read other figures of the same runs share them.
    key = (*row.cases, rounds)
    if ours.label not in missing and key not in known:
        answers: list[dict[str, Any]] = []
        for number in range(rounds):
            first = number % len(row.cases)
            answer: dict[str, Any] = {}
            for case in row.cases[first:] + row.cases[:first]:
                if case.label in missing:
                    continue
                try:
                    answer[case.label] = ask(case)
                except (LookupError, subprocess.SubprocessError) as problem:
                    missing[case.label] = _reason(problem)
            answers.append(answer)
        known[key] = [answers, missing]
    if key in known:
        answers, missing = known[key]
    result["missing"] = missing
    if ours.label in missing:
        return {**result, "cases": {}, "ratio": None, "met": None}
    values = [
        {case.label: row.figure(answer[case.label]) for case in row.cases if case.label not in missing}
        for answer in answers
    ]
    result["cases"] = {label: spread([value[label] for value in values]) for label in values[0]}
    result["found"] = {
        case.label: [answer[case.label] for answer in answers] for case in row.cases if case.label not in missing
    }
    comparable = row.ratio is not None and len(values[0]) > 1 and (row.ratio is to_best or not missing)
    result["ratio"] = spread([row.ratio(value) for value in values]) if row.ratio and comparable else None
    measured = result["ratio"] if row.ratio else result["cases"][ours.label]
    result["met"] = None if row.budget is None or measured is None else row.budget.met(measured["median"])
    return result


def _missing(case: Case) -> str | None:
    if case.peer and not PEERS.exists():
        return "the peers are not installed: make peers"
    if case.tool is not None and shutil.which(case.tool) is None:
        return f"{case.tool} is not installed"
    return None


def run(case: Case, quick: bool, servers: Servers, package: Path = ROOT) -> Any:
    """In a process of its own, with the library of the checkout `package`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHONPATH"))}
    environment["OTEL_METRICS_EXPORTER"] = "none"
    if case.server is not None:
        environment["BENCHMARK_URL"] = servers.url(case.server)
    command = [str(PEERS) if case.peer else sys.executable, "-m", *(case.quick if quick else case.full)]
    with tempfile.TemporaryDirectory(prefix="taskflow-benchmark-") as directory:
        # The library alone: the other checkout may have programs of the same names as this suite.
        library = Path(directory) / "library"
        library.mkdir()
        (library / "taskflow_otel").symlink_to(package / "taskflow_otel")
        environment |= {"TMPDIR": directory, "PYTHONPATH": f"{library}{os.pathsep}{ROOT}"}
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was printed").splitlines()[-1]
        raise LookupError(f"{' '.join(command[2:])} ended with {done.returncode}: {last}")
    return json.loads(done.stdout)


def _reason(problem: Exception) -> str:
    return str(problem) or type(problem).__name__


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return {"median": _rounded(statistics.median(values)), "q1": _rounded(lower), "q3": _rounded(upper)}


def _rounded(value: float) -> float:
    """To four digits that count."""
    return float(f"{value:.4g}")
