"""The engine of a process of a Celery worker: it starts when it is needed, and ends with the process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.celery import host as module
from taskflow_otel.celery.extra import exceptions
from taskflow_otel.celery.host import Host
from taskflow_otel.engine.fleet.doorbells import Ring
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.retrying import Backoff
from tests.celery.brokers import manager_of
from tests.managers import started
from tests.waiting import eventually


class Bell:
    """Keeps what is rung."""

    def __init__(self) -> None:
        self.rung: list[Ring] = []

    def ring(self, ring: Ring) -> None:
        self.rung.append(ring)

    def waiting(self, celery_queue: str | None) -> int:
        return len(self.rung)

    def close(self) -> None: ...


def connected(directory: Path, work: Any) -> tuple[TaskManager, Bell]:
    manager, bell = manager_of(directory, work), Bell()
    assert manager.engine.doorbells is not None
    manager.engine.doorbells.connect(bell)
    return manager, bell


def host_of(manager: TaskManager) -> Host:
    assert manager.engine.doorbells is not None
    return Host(manager, manager.engine.doorbells, None)


async def test_the_engine_starts_in_a_thread_and_is_tried_again_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None: ...

    monkeypatch.setattr(module, "_BACKOFF", Backoff(first=0.01, longest=0.01))
    web, bell = connected(tmp_path, work)
    manager, _ = connected(tmp_path, work)
    startup, tries = manager.startup, list[int]()

    async def away() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("no database")
        await startup()

    monkeypatch.setattr(manager, "startup", away)
    host = host_of(manager)
    host.stop()
    async with started(web):
        task_id = await web.enqueue(work)
        await eventually(lambda: len(bell.rung) == 1, "the doorbell")
        host.start()
        answers = [await asyncio.to_thread(host.answer, task_id, "far") for _ in range(2)]
        assert answers == ["an attempt was run", "there was nothing to run"]
        assert (await web.get(task_id)).status is TaskStatus.SUCCESS
        assert len([r for r in caplog.records if "(no database)" in r.getMessage()]) == 2
        await asyncio.to_thread(host.stop)
        await asyncio.to_thread(host.stop)
        # It starts again if a message comes after all.
        assert await asyncio.to_thread(host.answer, task_id, "far") == "there was nothing to run"
        await asyncio.to_thread(host.stop)


async def test_a_doorbell_gives_up_where_the_engine_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None: ...

    async def away() -> None:
        raise ConnectionError("no database")

    monkeypatch.setattr(module, "_START", 0.01)
    manager, _ = connected(tmp_path, work)
    monkeypatch.setattr(manager, "startup", away)
    host = host_of(manager)
    assert await asyncio.to_thread(host.answer, "t1", "far") == "no engine"
    await asyncio.to_thread(host.stop)
    assert "task t1 waits until it is rung again" in caplog.text


async def test_the_soft_time_limit_of_celery_cancels_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        loop.call_soon_threadsafe(entered.set)
        await asyncio.Event().wait()

    web, bell = connected(tmp_path, work)
    manager, _ = connected(tmp_path, work)
    host, limits = host_of(manager), list[int]()
    submit = asyncio.run_coroutine_threadsafe

    def limited(*args: Any) -> Any:
        """The first wait for an answer is interrupted, as by the signal of Celery."""
        future = submit(*args)
        result = future.result

        def interrupted(timeout: float | None = None) -> Any:
            if not limits:
                limits.append(1)
                while not entered.is_set():
                    future.exception  # noqa: B018
                raise exceptions.SoftTimeLimitExceeded
            return result(timeout)

        monkeypatch.setattr(future, "result", interrupted)
        return future

    async with started(web):
        task_id = await web.enqueue(work)
        await eventually(lambda: len(bell.rung) == 1, "the doorbell")
        monkeypatch.setattr(module.asyncio, "run_coroutine_threadsafe", limited)  # type: ignore[attr-defined]
        assert await asyncio.to_thread(host.answer, task_id, "far") == "an attempt was run"
        assert (await web.get(task_id)).status is TaskStatus.CANCELLED
        await asyncio.to_thread(host.stop)
