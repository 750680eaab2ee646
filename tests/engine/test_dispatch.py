"""Many tasks at once: nothing is lost, nobody else is kept waiting."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import Backend, MemoryBackend, SqliteBackend
from taskflow_otel.model.query import TaskQuery
from tests.managers import started
from tests.waiting import eventually

logger = logging.getLogger(__name__)

MANY = 10_000
SLICE = 1_000
"""No single callback of the event loop may deal with more tasks than this."""


class Callbacks:
    """What the callbacks of the event loop did: how long the longest ran, and how far the busiest moved `probe()`."""

    def __init__(self, probe: Callable[[], int]) -> None:
        self.longest = 0.0
        self.culprit = ""
        self.furthest = 0
        self._probe = probe

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at every callback that runs inside."""
        run = asyncio.Handle._run

        def watched(handle: asyncio.Handle) -> None:
            before, began = self._probe(), time.perf_counter()
            run(handle)
            took = time.perf_counter() - began
            self.furthest = max(self.furthest, self._probe() - before)
            if took > self.longest:
                self.longest, self.culprit = took, repr(handle)

        asyncio.Handle._run = watched  # type: ignore[method-assign,assignment]  # the event loop has no hook for this
        try:
            yield
        finally:
            asyncio.Handle._run = run  # type: ignore[method-assign]  # as above


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_ten_thousand_tasks_of_one_request_all_run_in_many_small_steps(kind: str, tmp_path: Path) -> None:
    backend: Backend = SqliteBackend(tmp_path / "t.db") if kind == "sqlite" else MemoryBackend()
    app, manager = FastAPI(), TaskManager(snapshot_backend=backend)
    TaskAdmin(app, manager, auto_install=True)
    done = 0

    @manager.task(persist=backend.durable)
    async def job(number: int) -> None:
        nonlocal done
        done += 1

    @app.post("/many")
    def many(tasks: ManagedBackgroundTasks) -> int:
        return len([tasks.add_task(job, number) for number in range(MANY)])

    async with started(manager), AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        callbacks = Callbacks(lambda: done + sum(q.ready + q.running for q in manager.queue_stats().values()))
        with callbacks.watched():
            assert (await client.post("/many", timeout=60)).json() == MANY
            await eventually(lambda: done == MANY and manager.store.list() == [], "all of them to run", timeout=60)
        assert (await manager.engine.lookup.counts(TaskQuery())).by_status == {TaskStatus.SUCCESS: MANY}
    logger.info("%s: longest callback %.1f ms, %s", kind, callbacks.longest * 1000, callbacks.culprit)
    assert callbacks.furthest <= SLICE


async def test_a_resumed_queue_of_ten_thousand_is_started_in_slices() -> None:
    manager = TaskManager()
    done = 0

    @manager.task()
    async def job() -> None:
        nonlocal done
        done += 1

    async with started(manager):
        await manager.pause_queue("default")
        for _ in range(MANY):
            await manager.enqueue(job)
        await manager.resume_queue("default")
        assert manager.queue_stats()["default"].running <= SLICE
        await eventually(lambda: done == MANY, "all of them to run", timeout=60)


async def test_blocked_task_threads_leave_the_threads_of_sync_routes_alone() -> None:
    app, manager = FastAPI(), TaskManager()
    TaskAdmin(app, manager, auto_install=True)
    release = threading.Event()
    blocked = 0

    @manager.task()
    def block() -> None:
        nonlocal blocked
        blocked += 1
        release.wait()

    @app.post("/storm")
    def storm(tasks: ManagedBackgroundTasks) -> None:
        for _ in range(1_000):
            tasks.add_task(block)

    @app.get("/sync")
    def sync() -> str:
        return threading.current_thread().name

    async with started(manager), AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        await client.post("/storm", timeout=60)
        _, capacity = manager.engine.vitals.slots()["thread"]
        assert capacity is not None
        await eventually(lambda: blocked == capacity, "every task thread to be blocked")
        # More of them than there are task threads, at once.
        answers = await asyncio.gather(*(client.get("/sync") for _ in range(2 * capacity)))
        assert all("taskflow" not in answer.json() for answer in answers)
        assert blocked == capacity
        release.set()
        await eventually(lambda: manager.store.list() == [], "the storm to pass", timeout=60)
    assert blocked == 1_000
