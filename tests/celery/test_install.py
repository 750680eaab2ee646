"""A Celery application that is connected with a manager: its workers run the manager's tasks, and its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from celery import signals
from celery.contrib.testing.worker import start_worker

from taskflow_otel.celery import install
from taskflow_otel.errors import ConfigurationError
from tests.celery.brokers import manager_of, shop
from tests.managers import finish, started
from tests.waiting import eventually


async def work(name: str) -> None: ...


@pytest.mark.parametrize("pool", ["solo", "threads"])
async def test_a_worker_without_children_runs_the_tasks_of_the_manager_and_its_own(tmp_path: Path, pool: str) -> None:
    seen: list[str] = []

    async def work(name: str) -> None:
        seen.append(name)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        seen.append("entered")
        yield
        seen.append("left")

    queue = f"work-{pool}"
    web, far = manager_of(tmp_path, work, queue), manager_of(tmp_path, work, queue)
    install(shop(), web)
    app = shop(task_default_queue=queue)
    install(app, far, lifespan=lifespan)

    def note(word: str) -> None:
        seen.append(word)

    own = app.task(name="own", shared=False)(note)
    async with started(web):
        ids = [await web.enqueue(work, name) for name in ("cat", "dog")]
        worker = start_worker(app, pool=pool, concurrency=2, perform_ping_check=False, loglevel="WARNING")
        await asyncio.to_thread(worker.__enter__)
        try:
            records = [await finish(web, task_id) for task_id in ids]
            own.delay("of its own")
            await eventually(lambda: "of its own" in seen, "the task of Celery")
            assert {one.instance for one in records} == {far.engine.instance_id}
        finally:
            await asyncio.to_thread(worker.__exit__, None, None, None)
        # The worker of the tests ends cold, which sends no signal.
        await asyncio.to_thread(signals.worker_shutdown.send, sender=app)
        assert (seen[0], seen[-1], sorted(seen[1:-1])) == ("entered", "left", ["cat", "dog", "of its own"])


async def test_with_task_always_eager_a_task_runs_where_it_is_enqueued(tmp_path: Path) -> None:
    seen: list[str] = []

    async def work(name: str) -> None:
        seen.append(name)

    manager = manager_of(tmp_path, work)
    install(shop(task_always_eager=True), manager)
    async with started(manager):
        record = await finish(manager, await manager.enqueue(work, "cat"))
        assert (record.instance, seen) == (manager.engine.instance_id, ["cat"])


def test_what_cannot_be_connected_is_refused(tmp_path: Path) -> None:
    app, manager = shop(), manager_of(tmp_path, work)
    with pytest.raises(ConfigurationError, match="must be a Celery application, not str"):
        install("shop", manager)
    install(app, manager)
    with pytest.raises(ConfigurationError, match="this Celery application runs the tasks of another TaskManager"):
        install(app, manager_of(tmp_path, work))
    with pytest.raises(ConfigurationError, match="connected with a Celery application already"):
        install(shop(), manager)
