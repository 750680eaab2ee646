"""What a row of the suite is, its budget, and how its figure is read.

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
    "keep-spans-memory": at_least(0.95),
    "keep-spans-sqlite": at_least(0.95),
    "http-memory": at_least(0.8),
    "http-memory-p99": at_most(2),
    "http-sqlite": at_least(0.6),
    "http-sqlite-p99": at_most(2),
    "sqlite-peers": at_least(1),
    "postgres": at_least(2),
    "mysql": at_least(2),
    "redis": at_least(2),
    "http-memory-flow": at_least(1),
    "http-sqlite-flow": at_least(1),
    "list": at_most(50),
    "list-start": at_most(1),
    "memory-growth": at_most(50),
    "watcher": at_most(1.05),
    "scrape": at_most(200),
    "scrape-pairs": at_most(200),
    "scrape-pairs-wire": at_most(1),
    "collector": at_least(0.95),
    "observer": at_least(0.95),
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


def to_reference(values: Values) -> float:
    """Ours in parts of the only reference."""
    ours, reference = values.values()
    return ours / reference if reference else math.nan


def to_best(values: Values) -> float:
    """Ours in parts of the reference that does most."""
    ours, *references = values.values()
    return ours / max(references)


def read(*path: str) -> Callable[[Any], float]:
    """Reads one number that lies deeper."""

    def find(found: Any) -> float:
        for name in path:
            found = found[name]
        return float(found)

    return find


def least_against(baseline: str, *cases: str) -> Callable[[Any], float]:
    """Of the throughputs of these cases in parts of the baseline's, the least."""

    def find(found: Any) -> float:
        return min(float(found["cases"][case][f"against_{baseline}"]["tasks_per_second"]["median"]) for case in cases)

    return find


def added(values: Values) -> float:
    """What signals add to the time of a task, in parts of what the same calls add by hand."""
    ours, without, by_hand, *_ = values.values()
    return (ours - without) / (by_hand - without)


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


RATE: Callable[[Any], float] = read("tasks_per_second")
CPU: Callable[[Any], float] = read("cpu_us_per_task")
WRK = "wrk"
"""The program that sends requests."""


def workload(label: str, name: str, size: int, *, peer: bool = False, server: Server | None = None) -> Case:
    """A case that runs a workload."""
    return probe(label, "workload", name, size, 60, peer=peer, server=server)


SERVERS: dict[Server, str] = {"postgres": "PostgreSQL", "mysql": "MariaDB", "redis": "Redis"}
"""What people call them."""


def on_server(name: str, server: Server, size: int, what: str, *peers: str) -> Row:
    """A row of a workload of ours on a server, beside what is used there. `what`: what it measures, in words."""
    return Row(
        name=name,
        what=f"{what} on {SERVERS[server]}, beside what is used there",
        unit="tasks/s",
        cases=(
            workload(OURS, name, size, server=server),
            *(workload(peer, f"{peer}-{server}", 3_000, peer=True, server=server) for peer in peers),
        ),
        figure=RATE,
        ratio=to_best,
    )
