"""The rows of the suite: what is measured beside what."""

from __future__ import annotations

from benchmarks.suite.kinds import (
    CPU,
    OURS,
    RATE,
    WRK,
    Case,
    Row,
    added,
    least_against,
    on_server,
    probe,
    read,
    to_best,
    to_reference,
    workload,
)
from benchmarks.suite.pool_rows import POOL_ROWS


def _keep_spans(kind: str, size: int) -> Row:
    return Row(
        name=f"keep-spans-{kind}",
        what=f"a task in {kind} that makes three spans and does nothing else, beside one whose spans are not kept",
        unit="tasks/s",
        cases=(workload(OURS, f"{kind}-spans", size), workload("not kept", f"{kind}-spans-off", size)),
        figure=RATE,
        ratio=to_reference,
    )


def _http(name: str, what: str, unit: str, found: str, case: str) -> Row:
    return Row(
        name=name,
        what=what,
        unit=unit,
        cases=tuple(probe(label, "http", kind, 8, 1, tool=WRK) for label, kind in ((OURS, case), ("native", "native"))),
        figure=read(found),
        ratio=to_reference,
    )


def _flow(kind: str) -> Row:
    return Row(
        name=f"http-{kind}-flow",
        what=f"a route that enqueues a task in {kind}, beside fastapi-taskflow",
        unit="requests/s",
        cases=(
            probe(OURS, "http", kind, 8, 1, tool=WRK),
            probe("fastapi-taskflow", "http", f"flow-{kind}", 8, 1, tool=WRK, peer=True),
        ),
        figure=read("rate"),
        ratio=to_reference,
        note="" if kind == "memory" else "fastapi-taskflow answers before the task is on the disk",
    )


def _unrelated(kind: str) -> Row:
    return Row(
        name=f"unrelated-{kind}",
        what=f"p99 of a route that adds nothing while others add tasks in {kind}, beside native tasks",
        unit="ms",
        cases=tuple(
            probe(label, "unrelated", case, 6, 1, tool=WRK) for label, case in ((OURS, kind), ("native", "native"))
        ),
        figure=read("p99_ms"),
        ratio=to_reference,
    )


def _schedules(kind: str) -> Row:
    return Row(
        name=f"schedules-due-{kind}",
        what=f"lateness of 100 schedules that are due at once each second, {kind}: due to enqueued, p99",
        unit="ms",
        cases=(probe(OURS, "lateness", kind, 100, 3), probe("bare sleep", "lateness", "bare", 100, 3)),
        figure=read("enqueued", "p99"),
        rounds=1,
    )


def _idle(kind: str) -> Row:
    return Row(
        name=f"schedules-idle-{kind}",
        what=f"CPU time of each second of waiting with 1,000 schedules, {kind}, beside a manager with none",
        unit="ms",
        cases=(probe(OURS, "idle-schedules", kind, 1_000, 20), probe("none", "idle-schedules", "none", 1_000, 20)),
        figure=read("cpu_ms_per_second"),
    )


_TROUBLES = ("absent", "refusing", "slow", "hung")
_MILLION = Case(
    OURS, ("benchmarks.million",), ("benchmarks.million", "--tasks", "500", "--repeats", "2")
)  # fmt: skip


def _in_line(number: int) -> Row:
    return Row(
        name=f"in-line-{number}",
        what=f"one task with {number:,} in line, beside 1,000 in line",
        unit="µs of CPU",
        cases=(probe(OURS, "in-line", "memory", number, 300), probe("1,000", "in-line", "memory", 1_000, 100)),
        figure=CPU,
        ratio=to_reference,
    )


ROWS: tuple[Row, ...] = (
    Row(
        name="memory",
        what="no-op async task in memory, metrics on, beside taskiq's InMemoryBroker",
        unit="tasks/s",
        cases=(
            workload(OURS, "memory", 20_000),
            workload("taskiq InMemoryBroker", "taskiq-memory", 20_000, peer=True),
        ),
        figure=RATE,
        ratio=to_reference,
    ),
    Row(
        name="sqlite",
        what="the same persisted in SQLite `full`, beside the floor program",
        unit="tasks/s",
        cases=(workload(OURS, "sqlite", 8_000), workload("floor", "floor", 20_000)),
        figure=RATE,
        ratio=to_reference,
    ),
    Row(
        name="telemetry",
        what="what spans and log records add to a task, beside what the SDK's own calls for them add by hand",
        unit="µs of CPU",
        cases=(
            workload(OURS, "memory-sdk", 8_000),
            workload("without", "memory", 20_000),
            workload("by hand", "memory-by-hand", 8_000),
            workload("the calls in a loop", "sdk", 8_000),
        ),
        figure=CPU,
        ratio=added,
        note="ratio: (ours − without) / (by hand − without)",
    ),
    _keep_spans("memory", 8_000),
    _keep_spans("sqlite", 4_000),
    Row(
        name="memory-flow",
        what="the same in memory, beside fastapi-taskflow",
        unit="tasks/s",
        cases=(workload(OURS, "memory", 20_000), workload("fastapi-taskflow", "flow-memory", 10_000, peer=True)),
        figure=RATE,
        ratio=to_reference,
    ),
    Row(
        name="sqlite-peers",
        what="the same persisted in SQLite, beside libraries that keep tasks there, synchronised with the disk",
        unit="tasks/s",
        cases=(
            workload(OURS, "sqlite", 8_000),
            workload("huey", "huey-sqlite", 2_000, peer=True),
            workload("DBOS", "dbos-sqlite", 300, peer=True),
        ),
        figure=RATE,
        ratio=to_best,
    ),
    _http("http-memory", "a route that enqueues a task in memory, beside native", "requests/s", "rate", "memory"),
    _http("http-memory-p99", "its p99, beside native's", "ms", "p99_ms", "memory"),
    _http("http-sqlite", "a route that enqueues a task in SQLite, beside native", "requests/s", "rate", "sqlite"),
    _http("http-sqlite-p99", "its p99, beside native's", "ms", "p99_ms", "sqlite"),
    _flow("memory"),
    _flow("sqlite"),
    _unrelated("memory"),
    _unrelated("sqlite"),
    on_server("postgres", "postgres", 6_000, "the same persisted", "procrastinate", "pgqueuer"),
    on_server("mysql", "mysql", 6_000, "the same persisted", "huey"),
    on_server("redis", "redis", 6_000, "the same persisted", "saq", "arq", "taskiq"),
    *POOL_ROWS,
    _in_line(10_000),
    _in_line(100_000),
    _in_line(500_000),
    Row(
        name="stall",
        what="longest stall of the loop while tasks come and go beside 10,000 live ones, collections included",
        unit="ms",
        cases=(probe(OURS, "stall", "memory", 10_000, 200), probe("bare asyncio", "stall", "bare", 10_000, 200)),
        figure=read("longest_stall_ms"),
    ),
    Row(
        name="memory-growth",
        what="growth of the process from 100,000 tasks in memory to 1,000,000",
        unit="MB",
        cases=(probe(OURS, "memory-growth", "memory", 1_000_000, 200),),
        figure=read("grown_mb"),
        rounds=1,
    ),
    Row(
        name="list",
        what="task list at 1,000,000 tasks in SQLite, the slowest p99 of its first page and filters",
        unit="ms",
        cases=(_MILLION,),
        figure=read("worst_p99_ms"),
        rounds=1,
    ),
    Row(
        name="list-start",
        what="start-up on that database",
        unit="s",
        cases=(_MILLION,),
        figure=read("startup_seconds"),
        rounds=1,
    ),
    Row(
        name="watcher",
        what="one task with a watcher of the live stream, beside a task that none watches",
        unit="µs of CPU",
        cases=(probe(OURS, "watched", "1", 5_000, 50), probe("no watcher", "watched", "0", 5_000, 50)),
        figure=CPU,
        ratio=to_reference,
    ),
    Row(
        name="watchers",
        what="one task with 64 watchers, beside a task with one",
        unit="µs of CPU",
        cases=(probe(OURS, "watched", "64", 5_000, 50), probe("1 watcher", "watched", "1", 5_000, 50)),
        figure=CPU,
        ratio=to_reference,
    ),
    Row(
        name="stream",
        what="length of one change in the live stream",
        unit="bytes",
        cases=(probe(OURS, "watched", "1", 5_000, 50),),
        figure=read("bytes_per_change"),
    ),
    Row(
        name="scrape",
        what="metrics page of 100 task types on 20 queues",
        unit="ms of CPU",
        cases=(probe(OURS, "scrape", "memory", 100, 3),),
        figure=read("cpu_ms"),
    ),
    Row(
        name="scrape-length",
        what="length of that page",
        unit="MB",
        cases=(probe(OURS, "scrape", "memory", 100, 3),),
        figure=read("megabytes"),
    ),
    Row(
        name="scrape-pairs",
        what="metrics page of 100 task types that have all used 20 queues",
        unit="ms of CPU",
        cases=(probe(OURS, "scrape", "pairs", 100, 3),),
        figure=read("cpu_ms"),
    ),
    Row(
        name="scrape-pairs-wire",
        what="length of that page on the wire, with gzip, which Prometheus asks for",
        unit="MB",
        cases=(probe(OURS, "scrape", "pairs", 100, 3),),
        figure=read("megabytes_on_the_wire"),
    ),
    _schedules("memory"),
    _schedules("sqlite"),
    _idle("memory"),
    _idle("sqlite"),
    Row(
        name="collector",
        what=f"throughput with a collector that is {', '.join(_TROUBLES)}: the worst, in parts of exports to nowhere",
        unit="",
        cases=(
            Case(
                OURS,
                ("benchmarks.collector", "--rounds", "10"),
                ("benchmarks.collector", "--rounds", "1", "--warm-up", "0", "--seconds", "0.1"),
            ),
        ),
        figure=least_against("nowhere", *_TROUBLES),
        rounds=1,
    ),
    Row(
        name="observer",
        what="throughput with an observer that raises or sleeps: the worse, in parts of one that works",
        unit="",
        cases=(
            Case(
                OURS,
                ("benchmarks.observers",),
                ("benchmarks.observers", "--rounds", "1", "--warm-up", "0", "--seconds", "0.1"),
            ),
        ),
        figure=least_against("counts", "raises", "sleeps"),
        rounds=1,
    ),
    Row(
        name="sync-storm",
        what="rate of a sync route during 1,000 blocking tasks, in parts of its calm rate",
        unit="",
        cases=(
            Case(
                OURS,
                ("benchmarks.sync_storm",),
                ("benchmarks.sync_storm", "--rounds", "1", "--seconds", "0.2"),
            ),
        ),
        figure=read("ratio"),
        rounds=1,
    ),
    Row(
        name="import",
        what="a process that imports the library and ends, beside FastAPI alone",
        unit="s",
        cases=(
            probe(OURS, "imports", "taskflow_otel.manager,taskflow_otel.admin", 5, 1),
            probe("FastAPI", "imports", "fastapi", 5, 1),
        ),
        figure=read("seconds"),
        ratio=to_reference,
    ),
)  # fmt: skip


def find(names: list[str]) -> list[Row]:
    """The rows of these names, all of them without any; raises `LookupError` for a name that no row has."""
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        raise LookupError(f"no row is named {', '.join(unknown)}; the rows: {', '.join(known)}")
    return [known[name] for name in names] if names else list(ROWS)
