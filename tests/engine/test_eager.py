"""Eager tasks start at `add_task`, and a persisted one is still committed before the response."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.model.query import TaskQuery
from tests.managers import HeldBackend, inserts, started
from tests.waiting import eventually


class Site:
    """An application with a sync and an async route, each of which adds one eager task and waits for its start."""

    def __init__(self, manager: TaskManager, executor: str, **options: Any) -> None:
        self.app = FastAPI()
        self.started = threading.Event()
        self.hold = threading.Event()
        self.manager = manager
        TaskAdmin(self.app, manager, auto_install=True)

        async def async_job() -> None:
            self.started.set()
            while not self.hold.is_set():
                await asyncio.sleep(0.002)

        def thread_job() -> None:
            self.started.set()
            self.hold.wait()

        job: Callable[[], Any] = async_job if executor == "async" else thread_job
        function = manager.task(name="job", **options)(job)

        @self.app.post("/async")
        async def from_async(tasks: ManagedBackgroundTasks, wait: bool = True) -> str:
            task_id = tasks.add_task(function, eager=True)
            if wait:
                await eventually(self.started.is_set, "the eager task to start", interval=0.002)
            return task_id

        @self.app.post("/sync")
        def from_sync(tasks: ManagedBackgroundTasks, wait: bool = True) -> str:
            task_id = tasks.add_task(function, eager=True)
            if wait:
                assert self.started.wait(30)
            return task_id

        @self.app.post("/fail")
        async def failing(tasks: ManagedBackgroundTasks) -> str:
            tasks.add_task(function, eager=True)
            raise RuntimeError

    async def post(self, path: str, **query: Any) -> Response:
        """Send one request."""
        transport = ASGITransport(self.app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, params=query)


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "not durable"])
@pytest.mark.parametrize("executor", ["async", "thread"])
@pytest.mark.parametrize("route", ["/async", "/sync"])
async def test_an_eager_task_runs_before_its_route_returns_and_outlives_the_response(
    route: str, executor: str, durable: bool
) -> None:
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=durable))
    site = Site(manager, executor, persist=durable)
    async with started(manager):
        answer = await site.post(route)
        assert answer.status_code == 200
        task_id = answer.json()
        assert (await manager.get(task_id)).status is TaskStatus.RUNNING
        site.hold.set()
        assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("route", ["/async", "/sync"])
async def test_the_response_waits_for_the_commit_of_a_persisted_eager_task(route: str) -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend)
    site = Site(manager, "async", persist=True)
    site.hold.set()
    async with started(manager):
        backend.hold = inserts
        asking = asyncio.create_task(site.post(route, wait=False))
        await backend.holding.wait()
        done, _ = await asyncio.wait({asking}, timeout=0.05)
        assert not done, "the task was acknowledged before it was kept"
        backend.release()
        answer = await asking
        assert answer.status_code == 200
        assert (await manager.wait(answer.json(), timeout=30)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("route", ["/async", "/sync"])
async def test_a_persisted_eager_task_that_cannot_be_kept_is_answered_with_503_and_does_not_run(route: str) -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend, commit_timeout=0.05)
    site = Site(manager, "async", persist=True)
    async with started(manager):
        backend.hold = inserts
        answer = await site.post(route, wait=False)
        assert answer.status_code == 503
        backend.release()
        await manager.engine.lookup.counts(TaskQuery())
        assert not site.started.is_set()
        assert manager.store.list() == []


async def test_an_eager_task_of_a_request_that_fails_has_started_and_continues() -> None:
    manager = TaskManager()
    site = Site(manager, "async")
    async with started(manager):
        assert (await site.post("/fail")).status_code == 500
        (record,) = manager.store.list()
        site.hold.set()
        assert (await manager.wait(record.task_id, timeout=30)).status is TaskStatus.SUCCESS
