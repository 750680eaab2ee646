"""How late schedules fire, and what idle ones cost.

Lateness is measured from the due moment to three others, in milliseconds: the task was made (its `created_at`), it was
enqueued, which is after its commit (an observer has seen it), and it was entered (its function runs). `bare` is the
lateness of an `asyncio.sleep` until the same moments in a process without schedules: what the machine itself adds.
Idle cost is the CPU time of the process for each second of waiting.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from taskflow_otel import LifecycleEvent, TaskManager, TaskObserver
from taskflow_otel.model.status import Transition

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


def _manager(backend: str, directory: Path, *observers: TaskObserver) -> TaskManager:
    """A manager on a new backend."""
    return TaskManager(snapshot_db=directory / "tasks.db" if backend == "sqlite" else None, loggers=observers)


async def lateness(what: str, size: int, directory: Path) -> dict[str, Any]:
    """Let `size` schedules fire each second for a while on a backend, or sleep as long and as often: `bare`."""
    seconds = 30.0 if size >= 100 else 2.0
    settle = _SETTLE if size >= 100 else 1.2
    if what == "bare":
        return {"enqueued": await _sleeping(seconds)}
    moments, entered, step = Moments(), list[timedelta](), timedelta(seconds=1)
    manager = _manager(what, directory, moments)

    async def note() -> None:
        now = datetime.now(UTC)
        late = (now - datetime.min.replace(tzinfo=UTC)) % step
        if now - late >= moments.since:
            entered.append(late)

    for place in range(size):
        manager.schedule(every=1.0, name=f"schedule-{place}", catch_up="all")(note)
    await manager.startup()
    await asyncio.sleep(settle)
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
        "cpu_ms_per_firing": 1_000 * cpu / took / size,
    }


async def _sleeping(seconds: float) -> dict[str, float]:
    late: list[timedelta] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        due = time.time() // 0.2 * 0.2 + 0.2
        await asyncio.sleep(due - time.time())
        late.append(timedelta(seconds=max(0.0, time.time() - due)))
    return milliseconds(late)


async def idle_schedules(what: str, size: int, directory: Path) -> dict[str, Any]:
    """The CPU time of waiting with `size` schedules of one hour, and of a start until each knows when it fires next.

    `none` has no schedules and waits as long.
    """
    seconds = 20.0 if size >= 1_000 else 0.5
    to_the_hour = 3600 - time.time() % 3600
    if to_the_hour < seconds + _SETTLE + _LONGEST_START:
        await asyncio.sleep(to_the_hour + 1)

    async def nothing() -> None: ...

    manager = _manager(what, directory)
    for place in range(0 if what == "none" else size):
        manager.schedule(every=3600, name=f"schedule-{place}")(nothing)
    cpu = time.process_time()
    await manager.startup()
    while not all(status.next_run for status in manager.schedules()):  # noqa: ASYNC110  # nothing signals it
        await asyncio.sleep(0.01)
    start = time.process_time() - cpu
    await asyncio.sleep(_SETTLE if seconds > 1 else 0.1)
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, took = time.process_time() - cpu, time.monotonic() - began
    await manager.shutdown()
    return {"cpu_ms_per_second": 1_000 * cpu / took, "start_cpu_ms": 1_000 * start}
