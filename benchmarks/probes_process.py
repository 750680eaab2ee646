"""Probes of a whole process: memory over many tasks, watchers of the live stream, a scrape, imports."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Scope

from benchmarks.workloads.producers import produce
from taskflow_otel import QueueConfig, TaskAdmin, TaskManager, Telemetry

_MEASURED = 5_000


async def memory_growth(what: str, size: int, directory: Path) -> dict[str, Any]:
    """How much a process grows from a tenth of `size` tasks to all of them."""
    manager = TaskManager(snapshot_db=directory / "tasks.db" if what == "sqlite" else None)

    @manager.task()
    async def nothing() -> None:
        pass

    async def one() -> None:
        await manager.wait(await manager.enqueue(nothing, tags={"tenant": "seven"}))

    await manager.startup()
    sizes = [_resident_mb()]
    for part in range(10):
        await produce(size // 10, one)
        if part in (0, 9):
            gc.collect()
            sizes.append(_resident_mb())
    await manager.shutdown()
    return {"tasks": size, "rss_mb": sizes, "grown_mb": sizes[2] - sizes[1]}


async def watched(what: str, size: int, directory: Path) -> dict[str, Any]:
    """CPU time of one task while `what` watchers read the live stream, and what each of them got for each change."""
    app = FastAPI(openapi_url=None)
    manager = TaskManager()
    TaskAdmin(app, manager, metrics_token="benchmark")

    @manager.task()
    async def nothing() -> None:
        pass

    async def one() -> None:
        await manager.wait(await manager.enqueue(nothing))

    watchers = [_Watcher() for _ in range(int(what))]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        tasks = [asyncio.create_task(watcher.watch(app)) for watcher in watchers]
        await asyncio.gather(*(watcher.opened.wait() for watcher in watchers))
        await produce(max(1, size // 10), one)
        cpu = time.process_time()
        await produce(size, one)
        cpu = time.process_time() - cpu
        # What is on its way to the watchers.
        await asyncio.sleep(1.0 if size >= 1_000 else 0.2)
        for watcher in watchers:
            watcher.received = 0
        # One after the other: in the storm above, the stream joins the changes of a task.
        single = max(1, min(100, size // 10))
        for _ in range(single):
            await one()
            await asyncio.sleep(0.05)
        for watcher in watchers:
            watcher.gone.set()
        await asyncio.gather(*tasks)
    # Enqueued, started, succeeded.
    changes = 3 * single * max(1, len(watchers))
    return {
        "watchers": len(watchers),
        "cpu_us_per_task": cpu / size * 1e6,
        "bytes_per_change": sum(watcher.received for watcher in watchers) / changes,
    }


class _Watcher:
    """A client of the live stream that reads as fast as it can."""

    def __init__(self) -> None:
        self.received = 0
        self.opened = asyncio.Event()
        self.gone = asyncio.Event()

    async def watch(self, app: FastAPI) -> None:
        """Read until it is gone."""

        async def receive() -> Message:
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.received += len(message.get("body", b""))
            self.opened.set()

        await app(_get("/tasks/events"), receive, send)


_AS_PROMETHEUS = (
    ("authorization", "Bearer benchmark"),
    ("accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"),
    ("accept-encoding", "gzip"),
)


async def scrape(what: str, size: int, directory: Path) -> dict[str, Any]:
    """The CPU time and length of a metrics page with `size` task types on twenty queues, gzipped and not.

    Each type has used its own queue, or with "pairs" every queue. The page is asked for as Prometheus does.
    """
    app = FastAPI(openapi_url=None)
    queues = [f"queue-{number}" for number in range(20)]
    manager = TaskManager(
        queues={name: QueueConfig() for name in queues},
        telemetry=Telemetry(max_label_values=max(200, size * len(queues) if what == "pairs" else 0)),
    )
    TaskAdmin(app, manager, metrics_token="benchmark")

    def declared(number: int) -> Callable[[], Awaitable[None]]:
        # One function for all of them would be one type.
        @manager.task(name=f"task_{number}", queue=queues[number % len(queues)])
        async def nothing() -> None:
            pass

        return nothing

    functions = [declared(number) for number in range(size)]
    body = bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        body.extend(message.get("body", b""))

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        for function in functions:
            for queue in queues if what == "pairs" else [None]:
                await manager.wait(await manager.enqueue(function, queue=queue))
        times = []
        for _ in range(3):
            # A page is kept for a moment.
            await asyncio.sleep(1.1)
            body.clear()
            cpu = time.process_time()
            await app(_get("/tasks/metrics", *_AS_PROMETHEUS), receive, send)
            times.append(time.process_time() - cpu)
    return {
        "types": size,
        "cpu_ms": min(times) * 1e3,
        "megabytes": len(gzip.decompress(body)) / 1e6,
        "megabytes_on_the_wire": len(body) / 1e6,
    }


async def imports(what: str, size: int, directory: Path) -> dict[str, Any]:
    """The seconds and the memory of a process that imports a module and ends: the least of `size` runs.

    All modules are compiled before, as those of an installed package are.
    """
    program = f"import {what}; print(open('/proc/self/statm').read().split()[1])"
    command = [sys.executable, "-X", f"pycache_prefix={directory}", "-c", program]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = []
    for _ in range(size + 1):
        began = time.perf_counter()
        done = await asyncio.to_thread(
            subprocess.run, command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        runs.append((time.perf_counter() - began, int(done.stdout) * os.sysconf("SC_PAGE_SIZE") / 1e6))
    return {"seconds": min(took for took, _ in runs), "megabytes": min(memory for _, memory in runs)}


def _get(path: str, *headers: tuple[str, str]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"benchmark"), *((name.encode(), value.encode()) for name, value in headers)],
        "client": ("127.0.0.1", 1),
        "server": ("benchmark", 80),
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
