"""A no-op task of libraries on Redis, from its call until it has run, with the worker in the same process.

Each runs as many tasks at once as there are producers, keeps no results where it can be told so, and logs nothing. What
a library polls with is set so that it does not wait for its own timer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.workloads import PRODUCERS, Run
from benchmarks.workloads.producers import produce

logging.disable(logging.WARNING)

_POLL_SECONDS = 0.01


@asynccontextmanager
async def saq_redis(directory: Path) -> AsyncIterator[Run]:
    """SAQ: jobs are swept up when their worker dies."""
    from saq import Queue, Worker

    queue = Queue.from_url(os.environ["BENCHMARK_URL"])
    finished = asyncio.Semaphore(0)

    async def nothing(context: Any) -> None:
        finished.release()

    async def one() -> None:
        await queue.enqueue("nothing", ttl=-1)
        await finished.acquire()

    await queue.connect()
    worker = Worker(queue, functions=[("nothing", nothing)], concurrency=PRODUCERS)
    async with _running(worker.start()):
        yield lambda number: produce(number, one)


@asynccontextmanager
async def arq_redis(directory: Path) -> AsyncIterator[Run]:
    """arq: a job stays in its queue until it has run."""
    from arq import create_pool
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    settings = RedisSettings.from_dsn(os.environ["BENCHMARK_URL"])
    pool = await create_pool(settings)
    finished = asyncio.Semaphore(0)

    async def nothing(context: Any) -> None:
        finished.release()

    async def one() -> None:
        await pool.enqueue_job("nothing")
        await finished.acquire()

    worker = Worker(
        functions=[func(nothing, name="nothing", keep_result=0)], redis_settings=settings, max_jobs=PRODUCERS,
        poll_delay=_POLL_SECONDS, handle_signals=False,
    )  # fmt: skip
    async with _running(worker.main()):
        yield lambda number: produce(number, one)


@asynccontextmanager
async def taskiq_redis(directory: Path) -> AsyncIterator[Run]:
    """taskiq on a stream of Redis, the one of its brokers for it that acknowledges."""
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(os.environ["BENCHMARK_URL"])
    finished = asyncio.Semaphore(0)

    @broker.task
    async def nothing() -> None:
        finished.release()

    async def one() -> None:
        await nothing.kiq()
        await finished.acquire()

    await broker.startup()
    async with _running(run_receiver_task(broker, max_async_tasks=PRODUCERS, max_prefetch=PRODUCERS)):
        yield lambda number: produce(number, one)


@asynccontextmanager
async def celery_redis(directory: Path) -> AsyncIterator[Run]:
    """Celery with its pool of threads, in this process too; a message is acknowledged when its task has run."""
    from celery import Celery
    from celery.worker import WorkController

    url = os.environ["BENCHMARK_URL"]
    app = Celery("nothing", broker=url)
    app.conf.update(task_ignore_result=True, task_acks_late=True, worker_concurrency=PRODUCERS)
    loop, finished = asyncio.get_running_loop(), asyncio.Semaphore(0)

    @app.task(name="nothing")
    def nothing() -> None:
        loop.call_soon_threadsafe(finished.release)

    async def one() -> None:
        nothing.delay()
        await finished.acquire()

    worker = WorkController(app=app, pool_cls="threads", without_gossip=True, without_mingle=True)
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    try:
        yield lambda number: produce(number, one)
    finally:
        await asyncio.to_thread(worker.stop)


@asynccontextmanager
async def _running(worker: Any) -> AsyncIterator[None]:
    """The worker runs for as long as this is open."""
    task = asyncio.ensure_future(worker)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
