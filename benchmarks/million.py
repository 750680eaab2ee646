"""What a long history costs: start-up, memory, and the latency of the task list with each of its filters.

    python -m benchmarks.million [--tasks 1000000] [--database FILE] [--repeats 200]

Fills a SQLite database with finished tasks, then measures in a process of its own that starts a `TaskManager` on it
and asks its API (through ASGI, without a network). Prints one JSON object: times in milliseconds, sizes in megabytes.
A total that ends in `+` is a lower bound.
With `--database` a file that is there already is measured as it is, and kept.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Backend, Insert
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace

NAMES = ["send_email", "resize_image", "charge_card", "build_report", "sync_crm"]
QUEUES = ["default", "mails", "reports"]
RARE = "once_a_week"
BATCH = 1_000
SPAN = timedelta(days=30)


def history(number: int, end: datetime) -> Iterator[TaskRecord]:
    """Finished tasks of the last thirty days, oldest first: one in twenty failed, one in 10,000 of a rare name."""
    step = SPAN / number
    for n in range(number):
        created = end - SPAN + n * step
        started, ended = created + timedelta(milliseconds=5), created + timedelta(milliseconds=5 + n % 900)
        failed = n % 20 == 7
        trace_id = f"{n + 1:032x}"
        yield TaskRecord(
            task_id=new_task_id(),
            func_name=RARE if n % 10_000 == 5 else NAMES[n % len(NAMES)],
            status=TaskStatus.FAILED if failed else TaskStatus.SUCCESS,
            created_at=created,
            start_time=started,
            end_time=ended,
            duration=(ended - started).total_seconds(),
            error=f"the server answered {500 + n % 7} for order {n}" if failed else None,
            error_type="ConnectionError" if failed else None,
            tags={"tenant": f"t{n % 500}"} if n % 4 == 0 else {},
            source="scheduled" if n % 50 == 0 else "manual",
            queue=QUEUES[n % len(QUEUES)],
            instance="filler",
            timeline=(
                TimelineEntry(Transition.ENQUEUED, created, 0, "filler"),
                TimelineEntry(Transition.STARTED, started, 0, "filler"),
                TimelineEntry(Transition.FAILED if failed else Transition.SUCCEEDED, ended, 0, "filler"),
            ),
            payload='{"v":1,"args":["someone@example.com"],"kwargs":{"order":123456}}',
            persisted=True,
            trace=TaskTrace(SpanRef(trace_id, f"{n + 1:016x}", 1), SpanRef(trace_id, f"{n + 2:016x}", 1)),
        )


async def write(backend: Backend, records: Iterable[TaskRecord]) -> None:
    """Write finished tasks in batches."""
    batch: list[Insert] = []
    for record in records:
        batch.append(Insert(record))
        if len(batch) == BATCH:
            await backend.apply(batch)
            batch = []
    await backend.apply(batch)


async def fill(database: Path, number: int) -> float:
    """Write the history and return the seconds that took."""
    began = time.perf_counter()
    backend = SqliteBackend(database)
    await backend.open()
    try:
        await write(backend, history(number, datetime.now(UTC)))
    finally:
        await backend.close()
    return time.perf_counter() - began


def filters(number: int, end: datetime) -> dict[str, dict[str, str]]:
    """Each filter of the task list by itself, and some of them together; frequent and rare values.

    Times are counted from the newest task, so that a database that was kept is asked the same.
    """

    def ago(**age: float) -> str:
        return (end - timedelta(**age)).isoformat()

    return {
        "first page": {},
        "status": {"status": "success"},
        "status, rare": {"status": "failed"},
        "status, none": {"status": "cancelled"},
        "name": {"func_name": NAMES[0]},
        "name, rare": {"func_name": RARE},
        "name, none": {"func_name": "nothing"},
        "queue": {"queue": QUEUES[1]},
        "source": {"source": "scheduled"},
        "tag": {"tag": "tenant:t4"},
        "tag, any value": {"tag": "tenant"},
        "since": {"since": ago(hours=6)},
        "until": {"until": ago(days=20)},
        "window": {"since": ago(days=20), "until": ago(days=19)},
        "trace": {"trace_id": f"{number // 2 + 1:032x}"},
        "text": {"q": "answered 503"},
        "text, none": {"q": "no such words"},
        "name and status": {"func_name": NAMES[0], "status": "failed"},
        "rare name and status": {"func_name": RARE, "status": "success"},
        "queue and since": {"queue": QUEUES[1], "since": ago(hours=6)},
        "tag and status": {"tag": "tenant:t4", "status": "failed"},
        "any tag and status": {"tag": "tenant", "status": "failed"},
        "any tag and status, none": {"tag": "tenant", "status": "cancelled"},
        "text and tag": {"q": "no such words", "tag": "tenant"},
        "text and status": {"q": "order 7", "status": "failed"},
        "queue and status": {"queue": QUEUES[1], "status": "failed"},
        "name and queue": {"func_name": NAMES[0], "queue": QUEUES[1]},
        "name, queue and status": {"func_name": NAMES[2], "queue": QUEUES[1], "status": "failed"},
        "source, status and until": {"source": "scheduled", "status": "failed", "until": ago(days=10)},
    }


def percentile(times: list[float], share: float) -> float:
    """The smallest of the times that at least this share of them does not exceed, in milliseconds."""
    return round(sorted(times)[math.ceil(len(times) * share) - 1] * 1_000, 2)


class Collections:
    """Watches the garbage collector, whose full collections stop the process whatever it does at the moment."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = 0.0
        gc.callbacks.append(self._on_phase)

    def _on_phase(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.longest = max(self.longest, time.perf_counter() - self._began)


def resident() -> float:
    """Memory of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


async def measure(database: Path, number: int, repeats: int) -> dict[str, Any]:
    """Start a manager on the history and ask it."""
    before = resident()
    began = time.perf_counter()
    manager = TaskManager(snapshot_db=database)
    app = FastAPI()
    TaskAdmin(app, manager)
    await manager.startup()
    started = time.perf_counter() - began
    after = resident()
    found: dict[str, Any] = {
        "startup_seconds": round(started, 3),
        "rss_before_start_mb": before,
        "rss_after_start_mb": after,
    }
    latencies: dict[str, dict[str, Any]] = {}
    collections = Collections()

    async def ask(label: str, client: httpx.AsyncClient, path: str, params: dict[str, str]) -> httpx.Response:
        times, cpu = [], time.process_time()
        for _ in range(repeats):
            asked = time.perf_counter()
            answer = await client.get(path, params=params)
            times.append(time.perf_counter() - asked)
            answer.raise_for_status()
        cpu = (time.process_time() - cpu) / repeats
        latencies[label] = {
            "p50": percentile(times, 0.5),
            "p99": percentile(times, 0.99),
            # All threads of this process: what is left of the latency when others keep the machine busy.
            "cpu": round(cpu * 1_000, 2),
        }
        if (total := answer.headers.get("X-Total-Count")) is not None:
            latencies[label]["total"] = total + ("" if answer.headers["X-Total-Count-Exact"] == "true" else "+")
        return answer

    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://benchmark") as client:
            [newest] = (await client.get("/tasks", params={"limit": "1"})).json()
            end = datetime.fromisoformat(newest["created_at"])
            for label, params in filters(number, end).items():
                await ask(label, client, "/tasks", params)
            middle = {"until": (end - SPAN / 2).isoformat()}
            cursor = (await client.get("/tasks", params=middle)).headers["X-Next-Cursor"]
            await ask("page from the middle", client, "/tasks", {"cursor": cursor})
            await ask("search from the middle", client, "/tasks", {"cursor": cursor, "q": "no such words"})
            await ask("counts", client, "/tasks/stats", {})
            counted = await ask("counts of a status", client, "/tasks/stats", {"status": "failed"})
            await ask("counts of a window", client, "/tasks/stats", {"since": (end - timedelta(hours=6)).isoformat()})
            await ask("counts of any tag", client, "/tasks/stats", {"tag": "tenant"})
            found["tasks"] = (await client.get("/tasks/stats")).json()["total"]
            found["failed"] = counted.json()["failed"]
    finally:
        await manager.shutdown()
    found["rss_after_queries_mb"] = resident()
    found["latency_ms"] = latencies
    found["longest_garbage_collection_ms"] = round(collections.longest * 1_000, 1)
    found["machine_load"] = round(os.getloadavg()[0], 1)
    found["worst_p99_ms"] = max(one["p99"] for one in latencies.values())
    return found


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--database", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(asyncio.run(measure(given.database, given.tasks, given.repeats))))
        return
    with tempfile.TemporaryDirectory(prefix="taskflow-million-") as directory:
        database = given.database or Path(directory) / "tasks.db"
        result: dict[str, Any] = {}
        if not database.exists():
            result["fill_seconds"] = round(asyncio.run(fill(database, given.tasks)), 1)
        result["database_mb"] = round(database.stat().st_size / 1e6, 1)
        command = [sys.executable, "-m", "benchmarks.million", "--measure", "--database", str(database)]
        command += ["--tasks", str(given.tasks), "--repeats", str(given.repeats)]
        # A process of its own: the memory that filling took would count.
        measured = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        print(json.dumps({**result, **json.loads(measured.stdout)}, indent=2))


if __name__ == "__main__":
    main()
