"""The rows of the suite and their budgets: what is measured beside what, and how much is allowed.

A row's first case is ours. Each case is a command that prints one JSON object; the row's figure is read from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Server = Literal["redis", "postgres", "mysql"]
Values = Mapping[str, float]
"""The figure of each case of one round, ours first."""
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a row's ratio (or its own figure, where it has no ratio) may be."""

    bound: Literal["at least", "at most"]
    value: float

    def met(self, measured: float) -> bool:
        """Whether the figure is within it."""
        return measured >= self.value if self.bound == "at least" else measured <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.bound == 'at least' else '≤'} {self.value:g}"


def at_least(value: float) -> Budget:
    """A lower bound."""
    return Budget("at least", value)


def at_most(value: float) -> Budget:
    """An upper bound."""
    return Budget("at most", value)


BUDGETS: dict[str, Budget] = {
    "memory": at_least(1.2),
    "sqlite": at_least(0.6),
    "telemetry": at_most(1.3),
    "http-memory": at_least(0.8),
    "http-memory-p99": at_most(2),
    "http-sqlite": at_least(0.6),
    "http-sqlite-p99": at_most(2),
    "in-line-10000": at_most(1.2),
    "in-line-100000": at_most(1.2),
    "in-line-500000": at_most(1.2),
    "stall": at_most(10),
}
"""Of ratios, or of the row's own figure in its unit."""


@dataclass(frozen=True, slots=True)
class Case:
    """A program to run, with fewer operations where a quick run is asked for.

    A case with `peer` runs in the environment of the peers. `server` is started before, and its URL is in
    `BENCHMARK_URL`.
    """

    label: str
    full: tuple[str, ...]
    quick: tuple[str, ...]
    peer: bool = False
    server: Server | None = None
    tool: str | None = None
    """A program that has to be installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    `figure` reads a case's JSON. `ratio` compares the figures of one round; without it only ours is reported beside
    its budget. `rounds` is for programs that repeat within themselves.
    """

    name: str
    what: str
    unit: str
    cases: tuple[Case, ...]
    figure: Callable[[Any], float]
    ratio: Callable[[Values], float] | None = None
    rounds: int | None = None
    note: str = ""

    @property
    def budget(self) -> Budget | None:
        """What the row is held to."""
        return BUDGETS.get(self.name)


def figure(name: str) -> Callable[[Any], float]:
    """Reads one number of the object."""
    return lambda found: float(found[name])


def to_reference(values: Values) -> float:
    """Ours in parts of the only reference."""
    ours, reference = values.values()
    return ours / reference if reference else math.nan


def to_best(values: Values) -> float:
    """Ours in parts of the reference that does most."""
    ours, *references = values.values()
    return ours / max(references)


def added(values: Values) -> float:
    """What signals add to the time of a task, in parts of what the calls take alone."""
    ours, without, alone = values.values()
    return (ours - without) / alone


def probe(
    label: str,
    kind: str,
    what: str,
    size: int,
    quick: int,
    *,
    peer: bool = False,
    server: Server | None = None,
    tool: str | None = None,
) -> Case:
    """A case of `benchmarks.measure`."""

    def command(size: int) -> tuple[str, ...]:
        return ("benchmarks.measure", kind, what, "--size", str(size))

    return Case(label, command(size), command(quick), peer, server, tool)


_RATE = figure("tasks_per_second")
_CPU = figure("cpu_us_per_task")
_WRK = "wrk"


def _workload(label: str, name: str, size: int, *, peer: bool = False, server: Server | None = None) -> Case:
    return probe(label, "workload", name, size, 60, peer=peer, server=server)


def _http(name: str, what: str, unit: str, read: str, case: str) -> Row:
    return Row(
        name=name,
        what=what,
        unit=unit,
        cases=tuple(
            probe(label, "http", kind, 8, 1, tool=_WRK) for label, kind in ((OURS, case), ("native", "native"))
        ),
        figure=figure(read),
        ratio=to_reference,
    )


def _in_line(number: int) -> Row:
    return Row(
        name=f"in-line-{number}",
        what=f"one task with {number:,} in line, beside 1,000 in line",
        unit="µs of CPU",
        cases=(probe(OURS, "in-line", "memory", number, 300), probe("1,000", "in-line", "memory", 1_000, 100)),
        figure=_CPU,
        ratio=to_reference,
    )


ROWS: tuple[Row, ...] = (
    Row(
        name="memory",
        what="no-op async task in memory, metrics on, beside taskiq's InMemoryBroker",
        unit="tasks/s",
        cases=(
            _workload(OURS, "memory", 20_000),
            _workload("taskiq InMemoryBroker", "taskiq-memory", 20_000, peer=True),
        ),
        figure=_RATE,
        ratio=to_reference,
    ),
    Row(
        name="sqlite",
        what="the same persisted in SQLite `full`, beside the floor program",
        unit="tasks/s",
        cases=(_workload(OURS, "sqlite", 8_000), _workload("floor", "floor", 20_000)),
        figure=_RATE,
        ratio=to_reference,
    ),
    Row(
        name="telemetry",
        what="what spans and log records add to a task, beside the SDK's own calls for them",
        unit="µs of CPU",
        cases=(
            _workload(OURS, "memory-sdk", 8_000),
            _workload("without", "memory", 20_000),
            _workload("SDK calls", "sdk", 8_000),
        ),
        figure=_CPU,
        ratio=added,
        note="ratio: (ours − without) / SDK calls",
    ),
    _http("http-memory", "a route that enqueues a task in memory, beside native", "requests/s", "rate", "memory"),
    _http("http-memory-p99", "its p99, beside native's", "ms", "p99_ms", "memory"),
    _http("http-sqlite", "a route that enqueues a task in SQLite, beside native", "requests/s", "rate", "sqlite"),
    _http("http-sqlite-p99", "its p99, beside native's", "ms", "p99_ms", "sqlite"),
    _in_line(10_000),
    _in_line(100_000),
    _in_line(500_000),
    Row(
        name="stall",
        what="longest stall of the loop while tasks come and go beside 10,000 live ones, collections included",
        unit="ms",
        cases=(probe(OURS, "stall", "memory", 10_000, 200), probe("bare asyncio", "stall", "bare", 10_000, 200)),
        figure=figure("longest_stall_ms"),
    ),
)  # fmt: skip


def find(names: list[str]) -> list[Row]:
    """The rows of these names, all of them without any; raises `LookupError` for a name that no row has."""
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        raise LookupError(f"no row is named {', '.join(unknown)}; the rows: {', '.join(known)}")
    return [known[name] for name in names] if names else list(ROWS)
