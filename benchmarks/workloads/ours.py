"""A no-op task of this library, from `enqueue` until it has finished, on each backend."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.workloads import PRODUCERS, Run
from benchmarks.workloads.producers import produce
from taskflow_otel import QueueConfig, TaskManager, Telemetry, get_task_context
from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend


@asynccontextmanager
async def _manager(
    backend: Backend | None,
    telemetry: Telemetry | None = None,
    function: Callable[[], Awaitable[None]] | None = None,
    *,
    persist: bool,
    shared: bool = False,
) -> AsyncIterator[Run]:
    queues = {"shared": QueueConfig(concurrency=PRODUCERS, run="pool")} if shared else None
    manager = TaskManager(snapshot_backend=backend, telemetry=telemetry, queues=queues)

    finished = asyncio.Semaphore(0)

    async def nothing() -> None:
        pass

    async def tell() -> None:
        finished.release()

    # Whoever waits for a task that another process may run asks the database. That would be measured too.
    job = manager.task(persist=persist, queue="shared" if shared else None)(tell if shared else function or nothing)

    async def one() -> None:
        task_id = await manager.enqueue(job)
        await (finished.acquire() if shared else manager.wait(task_id))

    await manager.startup()
    try:
        yield lambda number: produce(number, one)
    finally:
        await manager.shutdown()


@asynccontextmanager
async def memory(directory: Path) -> AsyncIterator[Run]:
    """In memory, metrics on."""
    async with _manager(None, persist=False) as run:
        yield run


@asynccontextmanager
async def memory_sdk(directory: Path) -> AsyncIterator[Run]:
    """In memory, with spans and log records of the SDK."""
    async with _sdk(None, persist=False) as run:
        yield run


@asynccontextmanager
async def memory_spans(directory: Path) -> AsyncIterator[Run]:
    """The same for a task that makes three spans, which are kept with its outcome."""
    async with _sdk(None, persist=False, spans=3) as run:
        yield run


@asynccontextmanager
async def memory_spans_off(directory: Path) -> AsyncIterator[Run]:
    """The same task; its spans are exported only."""
    async with _sdk(None, persist=False, spans=3, keep=False) as run:
        yield run


@asynccontextmanager
async def memory_by_hand(directory: Path) -> AsyncIterator[Run]:
    """In memory; in place of our spans and log records, the SDK's own calls for them stand in the code."""
    from benchmarks.workloads.sdk import Calls, Sent, providers

    calls, sent = Calls(providers(), "nothing", "host-1"), dict[str, Sent]()
    manager = TaskManager()

    @manager.task()
    async def nothing() -> None:
        context = get_task_context()
        assert context is not None
        calls.run(context.task_id, sent.pop(context.task_id))

    async def one() -> None:
        task_id = await manager.enqueue(nothing)
        # In memory, nothing else has run since.
        sent[task_id] = calls.add(task_id)
        await manager.wait(task_id)

    await manager.startup()
    try:
        yield lambda number: produce(number, one)
    finally:
        await manager.shutdown()


@asynccontextmanager
async def sqlite(directory: Path) -> AsyncIterator[Run]:
    """Persisted in SQLite, each commit synchronised with the disk."""
    async with _manager(SqliteBackend(directory / "tasks.db"), persist=True) as run:
        yield run


@asynccontextmanager
async def sqlite_sdk(directory: Path) -> AsyncIterator[Run]:
    """Persisted in SQLite, with spans and log records of the SDK."""
    async with _sdk(SqliteBackend(directory / "tasks.db"), persist=True) as run:
        yield run


@asynccontextmanager
async def sqlite_spans(directory: Path) -> AsyncIterator[Run]:
    """The same for a task that makes three spans, which are kept with its outcome."""
    async with _sdk(SqliteBackend(directory / "tasks.db"), persist=True, spans=3) as run:
        yield run


@asynccontextmanager
async def sqlite_spans_off(directory: Path) -> AsyncIterator[Run]:
    """The same task; its spans are exported only."""
    async with _sdk(SqliteBackend(directory / "tasks.db"), persist=True, spans=3, keep=False) as run:
        yield run


@asynccontextmanager
async def history(directory: Path) -> AsyncIterator[Run]:
    """Not persisted, and kept as history in SQLite."""
    async with _manager(SqliteBackend(directory / "tasks.db"), persist=False) as run:
        yield run


@asynccontextmanager
async def postgres(directory: Path) -> AsyncIterator[Run]:
    """Persisted on the PostgreSQL server of `BENCHMARK_URL`."""
    async with _manager(PostgresBackend(os.environ["BENCHMARK_URL"]), persist=True) as run:
        yield run


@asynccontextmanager
async def mysql(directory: Path) -> AsyncIterator[Run]:
    """Persisted on the MySQL server of `BENCHMARK_URL`."""
    async with _manager(MySQLBackend(os.environ["BENCHMARK_URL"]), persist=True) as run:
        yield run


@asynccontextmanager
async def redis(directory: Path) -> AsyncIterator[Run]:
    """Persisted on the Redis server of `BENCHMARK_URL`."""
    async with _manager(RedisBackend(os.environ["BENCHMARK_URL"]), persist=True) as run:
        yield run


@asynccontextmanager
async def pool_postgres(directory: Path) -> AsyncIterator[Run]:
    """In a shared queue on the PostgreSQL server of `BENCHMARK_URL`, given and claimed by this process."""
    async with _manager(PostgresBackend(os.environ["BENCHMARK_URL"]), persist=True, shared=True) as run:
        yield run


@asynccontextmanager
async def pool_redis(directory: Path) -> AsyncIterator[Run]:
    """In a shared queue on the Redis server of `BENCHMARK_URL`, given and claimed by this process."""
    async with _manager(RedisBackend(os.environ["BENCHMARK_URL"]), persist=True, shared=True) as run:
        yield run


@asynccontextmanager
async def _sdk(backend: Backend | None, *, persist: bool, spans: int = 0, keep: bool = True) -> AsyncIterator[Run]:
    from benchmarks.workloads.sdk import providers

    exported = providers()
    tracer = exported.tracer_provider.get_tracer("benchmark")
    telemetry = Telemetry(
        tracer_provider=exported.tracer_provider, logger_provider=exported.logger_provider, keep_spans=keep
    )

    async def make_spans() -> None:
        for _ in range(spans):
            with tracer.start_as_current_span("SELECT", attributes={"db.system.name": "sqlite"}):
                pass

    async with _manager(backend, telemetry, make_spans if spans else None, persist=persist) as run:
        yield run
