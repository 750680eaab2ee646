"""What the views of task types, of one type and of failures cost on a long history.

    python -m benchmarks.views sqlite|postgres [--tasks 1000000] [--repeats 100]

Fills a database with finished tasks as `benchmarks.million` does, where one in twenty has failed, in two hundred
groups. PostgreSQL is started for it. Then measures the API in a process of its own, through ASGI, without a network.
Each view is asked of a new administration, which remembers nothing (`cold`), and again of the same one, within the
seconds for which simultaneous viewers share a reading (`warm`). Prints one JSON object, with times in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from benchmarks.million import NAMES, RARE, history, percentile, write
from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.backends import PostgresBackend, SqliteBackend
from taskflow_otel.model.failure import fingerprint_of, summary_of
from taskflow_otel.model.figures import KEPT, Span
from taskflow_otel.model.record import TaskRecord

GROUPS = 200
"""Kinds of errors."""
MINUTES_AT_ONCE = 2_000


def opened(where: str) -> PostgresBackend | SqliteBackend:
    """The backend of a URL or a path."""
    return PostgresBackend(where) if where.startswith("postgresql") else SqliteBackend(where)


def failing(number: int, end: datetime) -> Iterator[TaskRecord]:
    """The history of `benchmarks.million`, whose failures are told apart by their errors."""
    for n, record in enumerate(history(number, end)):
        if record.error is not None:
            # In letters: numbers are no difference between two errors.
            place = n // 20 % GROUPS
            error = f"{record.error} at {'abcdefghijklmnopqrst'[place // 10] + 'qrstuvwxyz'[place % 10]}"
            texts: dict[str, Any] = {"error_type": record.error_type, "error": error, "stacktrace": None}
            kind = fingerprint_of(record.func_name, record.status, reason=None, **texts)
            record.error, record.failures = error, (summary_of(0, kind, **texts),)
        yield record


async def fill(where: str, number: int) -> float:
    """Write the history and return the seconds that took."""
    began = time.perf_counter()
    backend = opened(where)
    await backend.open()
    try:
        await write(backend, failing(number, datetime.now(UTC)))
        # As while it runs: figures of minutes are kept for some hours more than a day.
        old = Span.MINUTE.slot(datetime.now(UTC) - KEPT[Span.MINUTE])
        while await backend.figure_store.forget(Span.MINUTE, old, MINUTES_AT_ONCE):
            pass
    finally:
        await backend.close()
    return time.perf_counter() - began


def views(kind: str) -> dict[str, tuple[str, dict[str, str]]]:
    """The readings, with their parameters; `kind` is the fingerprint of a group."""
    name = NAMES[2]
    return {
        "types, 1 h": ("types", {"window": "1h"}),
        "types, 24 h": ("types", {"window": "24h"}),
        "one type, 1 h": (f"types/{name}", {"window": "1h"}),
        "one type, 24 h": (f"types/{name}", {"window": "24h"}),
        "one type, 7 d": (f"types/{name}", {"window": "7d"}),
        "one type, rare, 7 d": (f"types/{RARE}", {"window": "7d"}),
        "failures": ("failures", {}),
        "failures, last 24 h": ("failures", {"ended_since": "24h"}),
        "failures, most first": ("failures", {"order": "count"}),
        "failures, of one type": ("failures", {"func_name": name}),
        "failures, words": ("failures", {"q": "answered"}),
        "failures, of a queue": ("failures", {"queue": "mails"}),
        "one failure": (f"failures/{kind}", {}),
        "overview": ("overview", {}),
    }


async def measure(where: str, repeats: int) -> dict[str, Any]:
    """Start a manager on the history and ask it."""
    manager = TaskManager(snapshot_backend=opened(where))
    await manager.startup()

    def client() -> httpx.AsyncClient:
        app = FastAPI()
        TaskAdmin(app, manager)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://benchmark/tasks/")

    found: dict[str, Any] = {}
    try:
        async with client() as one:
            groups = (await one.get("failures", params={"limit": "200"})).json()
            total = (await one.get("stats")).json()
        found |= {"tasks": total["total"], "failed": total["failed"], "groups": groups["total"]}
        for label, (path, params) in views(groups["groups"][0]["fingerprint"]).items():
            times: dict[str, list[float]] = {"cold": [], "warm": []}
            cpu = dict.fromkeys(times, 0.0)
            refused = 0
            for _ in range(repeats):
                async with client() as one:
                    for state, known in times.items():
                        asked, used = time.perf_counter(), time.process_time()
                        answer = await one.get(path, params=params)
                        known.append(time.perf_counter() - asked)
                        cpu[state] += time.process_time() - used
                        refused += answer.is_error
            found[label] = {"refused": refused} | {
                state: {
                    "p50": percentile(some, 0.5),
                    "p99": percentile(some, 0.99),
                    # All threads of this process: what is left when others keep the machine busy.
                    "cpu": round(cpu[state] / repeats * 1_000, 2),
                }
                for state, some in times.items()
            }
    finally:
        await manager.shutdown()
    found["machine_load"] = round(os.getloadavg()[0], 1)
    return found


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sqlite", "postgres"])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(asyncio.run(measure(given.measure, given.repeats))))
        return
    with ExitStack() as stack:
        if given.kind == "postgres":
            from tests.servers import PostgresServer

            where = stack.enter_context(PostgresServer({"fsync": "on", "full_page_writes": "on"})).fresh_url()
        else:
            where = str(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskflow-views-"))) / "tasks.db")
        result: dict[str, Any] = {"fill_seconds": round(asyncio.run(fill(where, given.tasks)), 1)}
        command = [sys.executable, "-m", "benchmarks.views", given.kind, "--measure", where]
        # A process of its own: what filling has left in memory would count.
        measured = subprocess.run([*command, "--repeats", str(given.repeats)], stdout=subprocess.PIPE, check=True)
        print(json.dumps({**result, **json.loads(measured.stdout)}, indent=2))


if __name__ == "__main__":
    main()
