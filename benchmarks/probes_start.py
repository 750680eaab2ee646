"""How long a task waits from its commit in one process to its start in another, which is idle.

python -m benchmarks.probes_start WHAT     # the worker: a line for each start, with its number and the monotonic time
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_PAUSE = 0.03
"""Seconds between two tasks, on average: each finds an idle worker."""
_WARM = 2.5
"""Seconds until a worker listens for notifications."""
_LONGEST = 60.0

Add = Callable[[int], Awaitable[object]]
"""Adds the task of this number; it is committed when this returns."""


async def start(what: str, size: int, directory: Path) -> dict[str, Any]:
    """Median and 99th percentile of the waits of `size` tasks, in milliseconds."""
    committed, started = dict[int, float](), dict[int, float]()
    paths = [path for path in (os.environ.get("PYTHONPATH"), str(ROOT)) if path]
    async with _opened(what) as add:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.probes_start", what, stdout=asyncio.subprocess.PIPE, cwd=directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        lines = worker.stdout
        assert lines is not None

        async def hear_all() -> None:
            while len(started) <= size:
                number, moment = (await lines.readline()).split()
                started[int(number)] = float(moment)

        try:
            async with asyncio.timeout(_LONGEST):
                await lines.readline()
            hearing = asyncio.ensure_future(hear_all())
            await add(size)
            await asyncio.sleep(_WARM)
            for number in range(size):
                await asyncio.sleep(random.uniform(0, 2 * _PAUSE))
                await add(number)
                committed[number] = time.monotonic()
            async with asyncio.timeout(_LONGEST):
                await hearing
        finally:
            worker.kill()
            await worker.wait()
    # A task may start before the answer to its commit has arrived.
    waits = sorted(max(0.0, started[number] - moment) * 1e3 for number, moment in committed.items())
    return {
        "tasks": size,
        "p50_ms": statistics.median(waits),
        "p99_ms": waits[min(len(waits) - 1, round(0.99 * len(waits)))],
    }


def _note(number: int) -> None:
    os.write(sys.stdout.fileno(), f"{number} {time.monotonic()}\n".encode())


def _ready() -> None:
    os.write(sys.stdout.fileno(), b"ready\n")


def _manager(server: str, run: str, *, bell: bool = True) -> tuple[Any, Any]:
    from taskflow_otel import TaskManager
    from taskflow_otel.backends import PostgresBackend, RedisBackend

    backend = {"postgres": PostgresBackend, "redis": RedisBackend}[server](os.environ["BENCHMARK_URL"])
    if not bell:
        # As on a database that sends no notifications: it looks once a second.
        del backend.pool_bell
    os.environ["TASKFLOW_RUN"] = run
    try:
        manager = TaskManager(snapshot_backend=backend)
    finally:
        del os.environ["TASKFLOW_RUN"]

    @manager.task(persist=True)
    async def note(number: int) -> None:
        _note(number)

    return manager, note


def _procrastinate() -> tuple[Any, Any]:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=os.environ["BENCHMARK_URL"], min_size=1, max_size=8))

    @app.task(name="note")
    async def note(number: int) -> None:
        _note(number)

    return app, note


def _celery() -> tuple[Any, Any]:
    from celery import Celery

    app = Celery("note", broker=os.environ["BENCHMARK_URL"])
    app.conf.update(task_ignore_result=True, task_acks_late=True)

    @app.task(name="note")
    def note(number: int) -> None:
        _note(number)

    return app, note


@asynccontextmanager
async def _opened(what: str) -> AsyncIterator[Add]:
    """The process that adds tasks."""
    how, _, server = what.rpartition("-")
    if how == "procrastinate":
        app, note = _procrastinate()
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            yield lambda number: note.defer_async(number=number)
    elif how == "saq":
        from saq import Queue

        queue = Queue.from_url(os.environ["BENCHMARK_URL"])
        await queue.connect()
        yield lambda number: queue.enqueue("note", number=number, ttl=-1)
        await queue.disconnect()
    elif how == "celery":
        _, note = _celery()
        yield lambda number: asyncio.to_thread(note.delay, number)
    else:
        manager, note = _manager(server, "none")
        await manager.startup()
        try:
            if how == "transaction":
                async with _transactions() as transaction:
                    yield lambda number: transaction(manager, note, number)
            else:
                yield lambda number: manager.enqueue(note, number)
        finally:
            await manager.shutdown()


@asynccontextmanager
async def _transactions() -> AsyncIterator[Callable[[Any, Any, int], Awaitable[object]]]:
    """Adds each task in a transaction of the caller."""
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(os.environ["BENCHMARK_URL"].replace("postgresql://", "postgresql+psycopg://"))

    async def add(manager: Any, note: Any, number: int) -> None:
        async with engine.connect() as connection:
            await manager.enqueue(note, number, session=connection)
            await connection.commit()

    yield add
    await engine.dispose()


async def _work(what: str) -> None:
    """The process that runs them."""
    how, _, server = what.rpartition("-")
    if how == "procrastinate":
        app, _ = _procrastinate()
        async with app.open_async():
            working = asyncio.ensure_future(app.run_worker_async(concurrency=8, install_signal_handlers=False))
            _ready()
            await working
    elif how == "saq":
        from saq import Queue, Worker

        async def note(context: Any, *, number: int) -> None:
            _note(number)

        queue = Queue.from_url(os.environ["BENCHMARK_URL"])
        await queue.connect()
        working = asyncio.ensure_future(Worker(queue, functions=[("note", note)], concurrency=8).start())
        _ready()
        await working
    elif how == "celery":
        from celery.worker import WorkController

        app, _ = _celery()
        worker = WorkController(app=app, pool_cls="threads", concurrency=8, without_gossip=True, without_mingle=True)
        working = asyncio.ensure_future(asyncio.to_thread(worker.start))
        _ready()
        await working
    else:
        manager, _ = _manager(server, "pool", bell=how != "poll")
        await manager.startup()
        _ready()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
