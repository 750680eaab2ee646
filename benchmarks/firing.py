"""How late schedules fire, and what idle ones cost: `python -m benchmarks.firing`, JSON out.

Lateness is measured from the due moment to three others, in milliseconds: the task was made (its `created_at`), it was
enqueued, which is after its commit (an observer was told), and it was entered (its function runs). `asyncio` is the
lateness of a bare `asyncio.sleep` until the same moments in a process without schedules: what the machine itself adds.
Idle cost is the CPU time of the process for each second of waiting, in milliseconds, without schedules and with 1,000
of `every=3600`, in turns. Every case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from taskflow_otel import LifecycleEvent, TaskManager, TaskObserver
from taskflow_otel.model.status import Transition

BACKENDS = ("memory", "sqlite")
LOADS = {"one every 0.2 s": (1, 0.2), "hundred every 1 s": (100, 1.0)}
IDLE = 1_000
_SETTLE = 3.0
"""Seconds after the start that are not measured."""
_LONGEST_START = 30.0


def milliseconds(times: list[timedelta]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    ordered = sorted(time / timedelta(milliseconds=1) for time in times)
    places = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[int(share * (len(ordered) - 1))], 2) for name, share in places.items()}


class Moments(TaskObserver):
    """Notes how late each firing is made and enqueued."""

    def __init__(self) -> None:
        self.since = datetime.max.replace(tzinfo=UTC)
        self.made: list[timedelta] = []
        self.enqueued: list[timedelta] = []

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        """See `TaskObserver`."""
        if event.transition is Transition.ENQUEUED and event.run_at is not None and event.run_at >= self.since:
            self.made.append(event.created_at - event.run_at)
            self.enqueued.append(datetime.now(UTC) - event.run_at)


def make_manager(backend: str, directory: str, *observers: TaskObserver) -> TaskManager:
    """A manager on a new backend."""
    return TaskManager(snapshot_db=Path(directory) / "tasks.db" if backend == "sqlite" else None, loggers=observers)


async def firing(backend: str, load: str, seconds: float) -> dict[str, Any]:
    """Let schedules fire for a while."""
    number, every = LOADS[load]
    step = timedelta(seconds=every)
    moments = Moments()
    entered: list[timedelta] = []
    with tempfile.TemporaryDirectory() as directory:
        manager = make_manager(backend, directory, moments)

        async def note() -> None:
            now = datetime.now(UTC)
            # It runs milliseconds after its moment, or the machine is too busy to measure anything.
            late = (now - datetime.min.replace(tzinfo=UTC)) % step
            if now - late >= moments.since:
                entered.append(late)

        for place in range(number):
            manager.schedule(every=every, name=f"schedule-{place}", catch_up="all")(note)
        await manager.startup()
        await asyncio.sleep(_SETTLE)
        moments.since = datetime.now(UTC)
        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
        missed = sum(status.missed for status in manager.schedules())
        await manager.shutdown()
    return {
        "firings": len(moments.enqueued),
        "missed": missed,
        "made": milliseconds(moments.made),
        "enqueued": milliseconds(moments.enqueued),
        "entered": milliseconds(entered),
        "within_50_ms": round(sum(late <= timedelta(milliseconds=50) for late in moments.enqueued)
                              / len(moments.enqueued), 5),
        "cpu_ms_per_firing": round(1_000 * cpu / took / (number / every), 3),
    }  # fmt: skip


async def sleeping(seconds: float) -> dict[str, float]:
    """How late a bare `asyncio.sleep` is for every 0.2 s."""
    late: list[timedelta] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        due = (time.time() // 0.2 + 1) * 0.2
        await asyncio.sleep(due - time.time())
        late.append(timedelta(seconds=max(0.0, time.time() - due)))
    return milliseconds(late)


async def idle(backend: str, number: int, seconds: float) -> dict[str, float]:
    """The CPU time of waiting, and of a start until every schedule knows when it fires next."""
    to_the_hour = 3600 - time.time() % 3600
    if to_the_hour < seconds + _SETTLE + _LONGEST_START:
        await asyncio.sleep(to_the_hour + 1)

    async def nothing() -> None: ...

    with tempfile.TemporaryDirectory() as directory:
        manager = make_manager(backend, directory)
        for place in range(number):
            manager.schedule(every=3600, name=f"schedule-{place}")(nothing)
        cpu = time.process_time()
        await manager.startup()
        while not all(status.next_run for status in manager.schedules()):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)
        start = time.process_time() - cpu
        await asyncio.sleep(_SETTLE)
        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
        await manager.shutdown()
    return {"idle": 1_000 * cpu / took, "start": 1_000 * start}


def child(*arguments: object) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.firing", "--case", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_case(case: str, *arguments: str) -> dict[str, Any]:
    """What `child` asked for."""
    if case == "firing":
        return asyncio.run(firing(arguments[0], arguments[1], float(arguments[2])))
    if case == "idle":
        return asyncio.run(idle(arguments[0], int(arguments[1]), float(arguments[2])))
    return asyncio.run(sleeping(float(arguments[0])))


def main() -> None:
    """Measure everything in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each case (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="of the idle cost (default: 3)")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(*options.case)))
        return
    report: dict[str, Any] = {"machine_load_before": os.getloadavg()[0]}
    report["lateness_ms"] = {"asyncio": child("sleeping", options.seconds)}
    for backend in BACKENDS:
        for load in LOADS:
            report["lateness_ms"][f"{backend}, {load}"] = child("firing", backend, load, options.seconds)
    report["idle_cpu_ms_per_second"] = {}
    for backend in BACKENDS:
        found: dict[int, list[dict[str, float]]] = {0: [], IDLE: []}
        for _ in range(options.rounds):
            for number, measured in found.items():
                measured.append(child("idle", backend, number, options.seconds))
        report["idle_cpu_ms_per_second"][backend] = {
            f"{number} schedules": {
                "idle": round(statistics.median(one["idle"] for one in measured), 2),
                "idle, each round": [round(one["idle"], 2) for one in measured],
                "start": round(statistics.median(one["start"] for one in measured), 1),
            }
            for number, measured in found.items()
        }
    report["machine_load_after"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
