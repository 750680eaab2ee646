"""Probes of one process: cost with many tasks in line, stalls of the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

from benchmarks.workloads import PRODUCERS
from benchmarks.workloads.producers import produce
from taskflow_otel import QueueConfig, TaskManager

_MEASURED = 10_000
"""Tasks that are enqueued and finished while the others stand in line."""
_TICK = 0.001
_STALL_SECONDS = 6.0
_BUCKETS_MS = (2, 5, 10, 20, 50, 100)


async def in_line(what: str, size: int, directory: Path) -> dict[str, Any]:
    """The CPU time of one task, from `enqueue` until finished, while `size` others wait in the same queue.

    A task is enqueued whenever one has finished, so that the line keeps its length.
    """
    manager = TaskManager(queues={"default": QueueConfig(concurrency=PRODUCERS)}, shutdown_timeout=0.1)
    gate, finished = asyncio.Event(), asyncio.Semaphore(0)

    @manager.task()
    async def wait() -> None:
        await gate.wait()
        finished.release()

    async def one() -> None:
        await manager.enqueue(wait)
        await finished.acquire()

    await manager.startup()
    measured = min(_MEASURED, size * 10)
    for _ in range(size + PRODUCERS):
        await manager.enqueue(wait)
    gc.collect()
    gate.set()
    await produce(measured // 10, one)
    began, cpu = time.perf_counter(), time.process_time()
    await produce(measured, one)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    await _leave(manager, size)
    return {
        "in_line": size,
        "tasks": measured,
        "tasks_per_second": measured / took,
        "cpu_us_per_task": cpu / measured * 1e6,
    }


async def stall(what: str, size: int, directory: Path) -> dict[str, Any]:
    """How long the event loop was not free while tasks came and went beside `size` that live on.

    `bare` has the same number of asyncio's own tasks. `cpu` is the loop's own time between two ticks: what is left of a
    stall where other programs take turns on the same core.
    """
    end = asyncio.Event()
    seconds = _STALL_SECONDS if size >= 1_000 else 0.3
    running = 0
    manager: TaskManager | None = None if what == "bare" else TaskManager(shutdown_timeout=0.1)
    if manager is None:
        living = [asyncio.create_task(end.wait()) for _ in range(size)]

        async def one() -> None:
            await asyncio.create_task(asyncio.sleep(0))

    else:

        @manager.task()
        async def live() -> None:
            nonlocal running
            running += 1
            await end.wait()

        @manager.task()
        async def nothing() -> None:
            pass

        async def one() -> None:
            await manager.wait(await manager.enqueue(nothing))

        await manager.startup()
        for _ in range(size):
            await manager.enqueue(live)
        # What is measured is a process that has this many, and not one that starts them.
        while running < size:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    ticks = asyncio.create_task(_ticks(seconds))
    operations = 0

    async def churn() -> None:
        nonlocal operations
        while not ticks.done():
            await one()
            operations += 1

    await asyncio.gather(*(churn() for _ in range(4)))
    stalls, cpu = await ticks
    if manager is None:
        end.set()
        await asyncio.gather(*living)
    else:
        await _leave(manager, size)
    return {
        "live": size,
        "operations": operations,
        "longest_stall_ms": max(stalls) * 1e3,
        "longest_stall_cpu_ms": max(cpu) * 1e3,
        "histogram_ms": {f"> {bound}": sum(stall * 1e3 > bound for stall in stalls) for bound in _BUCKETS_MS},
        "ticks": len(stalls),
    }


async def _leave(manager: TaskManager, size: int) -> None:
    """Shut down where that is quick; the process ends anyway."""
    if size < 1_000:
        await manager.shutdown()


async def _ticks(seconds: float) -> tuple[list[float], list[float]]:
    stalls, cpu = [], []
    before, used = time.perf_counter(), time.thread_time()
    end = before + seconds
    while before < end:
        await asyncio.sleep(_TICK)
        now, cpu_now = time.perf_counter(), time.thread_time()
        stalls.append(max(0.0, now - before - _TICK))
        cpu.append(cpu_now - used)
        before, used = now, cpu_now
    return stalls, cpu
