"""A no-op task of libraries on SQL databases, from its call until it has run, with the worker in the same process.

Each runs as many tasks at once as there are producers where it can, keeps no results where it can be told so, and logs
nothing. Databases answer once a commit is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.workloads import PRODUCERS, Run
from benchmarks.workloads.producers import produce

logging.disable(logging.WARNING)

_POLL_SECONDS = 0.01
_THREADS = 4
"""Workers of a library that works in threads: more are slower here."""


@asynccontextmanager
async def procrastinate_postgres(directory: Path) -> AsyncIterator[Run]:
    """procrastinate, woken by notifications."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=os.environ["BENCHMARK_URL"], min_size=4, max_size=16))
    finished = asyncio.Semaphore(0)

    @app.task
    async def nothing() -> None:
        finished.release()

    async def one() -> None:
        await nothing.defer_async()
        await finished.acquire()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=PRODUCERS, install_signal_handlers=False, delete_jobs="always",
                                 fetch_job_polling_interval=0.1, shutdown_graceful_timeout=1)
        )  # fmt: skip
        try:
            yield lambda number: produce(number, one)
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)


@asynccontextmanager
async def pgqueuer_postgres(directory: Path) -> AsyncIterator[Run]:
    """pgqueuer on a pool of asyncpg, woken by notifications, in batches of half the producers."""
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgPoolDriver
    from pgqueuer.queries import Queries

    async with asyncpg.create_pool(os.environ["BENCHMARK_URL"], min_size=4, max_size=16) as pool:
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        await queries.install()
        worker = PgQueuer(driver)
        finished = asyncio.Semaphore(0)

        @worker.entrypoint("nothing")
        async def nothing(job: object) -> None:
            finished.release()

        async def one() -> None:
            await queries.enqueue("nothing", None)
            await finished.acquire()

        running = asyncio.create_task(
            worker.run(dequeue_timeout=timedelta(seconds=0.1), batch_size=PRODUCERS // 2,
                       max_concurrent_tasks=PRODUCERS)
        )  # fmt: skip
        try:
            yield lambda number: produce(number, one)
        finally:
            worker.shutdown.set()
            await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def huey_sqlite(directory: Path) -> AsyncIterator[Run]:
    """huey on SQLite, each commit synchronised with the disk."""
    from huey import SqliteHuey

    huey = SqliteHuey(filename=str(directory / "huey.db"), fsync=True, results=False)
    async with _huey(huey) as run:
        yield run


@asynccontextmanager
async def huey_mysql(directory: Path) -> AsyncIterator[Run]:
    """huey on MySQL."""
    from huey.contrib.sql_huey import SqlHuey

    database = os.environ["BENCHMARK_URL"].replace("mysql://", "mysql+pool://") + "?max_connections=20"
    async with _huey(SqlHuey(database=database, results=False)) as run:
        yield run


@asynccontextmanager
async def dbos_sqlite(directory: Path) -> AsyncIterator[Run]:
    """A workflow of DBOS without steps, on SQLite."""
    from dbos import DBOS

    DBOS(config={"name": "benchmark", "system_database_url": f"sqlite:///{directory / 'dbos.db'}",
                 "run_admin_server": False, "log_level": "ERROR"})  # fmt: skip
    finished = asyncio.Semaphore(0)

    loop = asyncio.get_running_loop()

    @DBOS.workflow()
    async def nothing() -> None:
        loop.call_soon_threadsafe(finished.release)

    async def one() -> None:
        await DBOS.start_workflow_async(nothing)
        await finished.acquire()

    DBOS.launch()
    try:
        yield lambda number: produce(number, one)
    finally:
        DBOS.destroy()


@asynccontextmanager
async def _huey(huey: Any) -> AsyncIterator[Run]:
    """Its consumer's threads, and producers that call it as a route would: it has no `await`."""
    loop = asyncio.get_running_loop()
    finished = asyncio.Semaphore(0)

    @huey.task()
    def nothing() -> None:
        loop.call_soon_threadsafe(finished.release)

    async def one() -> None:
        nothing()
        await finished.acquire()

    consumer = huey.create_consumer(
        workers=_THREADS,
        periodic=False,
        initial_delay=_POLL_SECONDS,
        max_delay=_POLL_SECONDS,
        check_worker_health=False,
    )
    # Its own `run` asks for signals, which only the main thread may have.
    consumer.start()
    try:
        yield lambda number: produce(number, one)
    finally:
        await asyncio.to_thread(consumer.stop, graceful=True)
