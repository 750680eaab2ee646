"""Cancelling: in each state, in each executor, on another instance, and against functions that resist."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from taskflow_otel import (
    InMemoryLogger,
    ManagedBackgroundTasks,
    QueueConfig,
    TaskAdmin,
    TaskManager,
    TaskNotFoundError,
    TaskStateError,
    TaskStatus,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.model.status import Transition
from taskflow_otel.testing.clock import FakeClock, settle
from tests.inside import own_context
from tests.managers import WAIT, Gate, HeldBackend, inserts, started, stuck, updates_to
from tests.waiting import eventually, stubbornly


async def test_cancelling_one_task_of_a_request_leaves_its_siblings_running() -> None:
    app, manager = FastAPI(), TaskManager()
    TaskAdmin(app, manager, auto_install=True)
    hold = asyncio.Event()
    inside: set[str] = set()
    told: list[str] = []

    @manager.task()
    async def sibling() -> None:
        inside.add(own_context().task_id)
        try:
            await hold.wait()
        except asyncio.CancelledError:
            told.append(own_context().task_id)
            raise

    @app.post("/three")
    async def three(tasks: ManagedBackgroundTasks) -> list[str]:
        return [tasks.add_task(sibling) for _ in range(3)]

    async with started(manager), AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        first, second, third = (await client.post("/three")).json()
        await eventually(lambda: len(inside) == 3, "three siblings to run")
        await manager.cancel(second)
        record = await manager.wait(second, timeout=30)
        assert (record.status, record.reason) == (TaskStatus.CANCELLED, "cancelled")
        assert told == [second]
        assert {(await manager.get(task_id)).status for task_id in (first, third)} == {TaskStatus.RUNNING}
        hold.set()
        for task_id in (first, third):
            assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("options", [{}, {"delay": 30}], ids=["ready", "delayed"])
async def test_a_pending_task_that_is_cancelled_never_runs(
    tmp_path: Path, durable: bool, options: dict[str, Any]
) -> None:
    clock = FakeClock()
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=durable), clock=clock)
    written = tmp_path / "written"

    @manager.task(persist=durable)
    async def write(path: str) -> None:
        Path(path).touch()

    async with started(manager):
        await manager.pause_queue("default")
        task_id = await manager.enqueue(write, str(written), **options)
        record = await manager.cancel(task_id)
        assert (record.status, record.reason) == (TaskStatus.CANCELLED, "cancelled")
        stats = manager.queue_stats()["default"]
        assert (stats.ready, stats.delayed) == (0, 0)
        await manager.resume_queue("default")
        await clock.advance(60)
        with pytest.raises(TaskStateError, match="cancelled already"):
            await manager.cancel(task_id)
    assert not written.exists()


async def test_what_has_finished_cannot_be_cancelled() -> None:
    async with started(TaskManager()) as manager:
        task_id = await manager.enqueue(lambda: None)
        await manager.wait(task_id, timeout=30)
        with pytest.raises(TaskStateError, match="is success already"):
            await manager.cancel(task_id)


async def test_a_task_is_cancelled_while_its_insert_is_being_committed() -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend)
    ran = False

    @manager.task(persist=True)
    async def job() -> None:
        nonlocal ran
        ran = True

    async with started(manager):
        backend.hold = inserts
        adding = asyncio.create_task(manager.enqueue(job))
        await backend.holding.wait()
        (record,) = manager.store.list()
        asked = await manager.cancel(record.task_id)
        assert (asked.status, asked.cancel_requested) == (TaskStatus.PENDING, True)
        backend.release()
        assert await adding == record.task_id
        stored = await backend.get(record.task_id)
        assert stored is not None
        assert stored.status is TaskStatus.CANCELLED
        assert manager.store.list() == []
    assert not ran


async def test_a_task_that_is_cancelled_while_its_start_is_being_committed_is_never_entered() -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend)
    ran = False

    @manager.task(persist=True)
    async def job() -> None:
        nonlocal ran
        ran = True

    async with started(manager):
        backend.hold = updates_to("running")
        task_id = await manager.enqueue(job)
        await backend.holding.wait()
        cancelling = asyncio.create_task(manager.cancel(task_id))
        await eventually(lambda: manager.store.list()[0].cancel_requested, "the request to be noted")
        backend.release()
        await cancelling
        assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.CANCELLED
        assert manager.queue_stats()["default"].running == 0
    assert not ran


async def test_a_cancel_during_the_commit_of_a_failure_prevents_the_retry() -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend)
    attempts = 0

    @manager.task(persist=True, retries=5)
    async def job() -> None:
        nonlocal attempts
        attempts += 1
        raise ValueError

    async with started(manager):
        await manager.pause_queue("default")
        task_id = await manager.enqueue(job)

        def first_failure(change: Any) -> bool:
            return updates_to("pending")(change) and change.record.retries_used == 1

        backend.hold = first_failure
        await manager.resume_queue("default")
        await backend.holding.wait()
        cancelling = asyncio.create_task(manager.cancel(task_id))
        await settle()
        assert not cancelling.done(), "the outcome of the task is not known yet"
        backend.release()
        await cancelling
        assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.CANCELLED
    assert attempts == 1


async def test_a_cancel_during_the_commit_of_a_success_is_refused() -> None:
    backend = HeldBackend()
    manager = TaskManager(snapshot_backend=backend)

    @manager.task(persist=True)
    async def job() -> None: ...

    async with started(manager):
        backend.hold = updates_to("success")
        task_id = await manager.enqueue(job)
        await backend.holding.wait()
        cancelling = asyncio.create_task(manager.cancel(task_id))
        await settle()
        backend.release()
        with pytest.raises(TaskStateError, match="just ended"):
            await cancelling
        assert (await manager.get(task_id)).status is TaskStatus.SUCCESS


async def test_cancelling_during_a_retry_wait_cancels() -> None:
    clock = FakeClock()
    manager = TaskManager(clock=clock)
    attempts = 0

    @manager.task(retries=3, delay=60)
    async def job() -> None:
        nonlocal attempts
        attempts += 1
        raise ValueError

    async with started(manager):
        task_id = await manager.enqueue(job)
        await settle()
        waiting = await manager.get(task_id)
        assert (waiting.status, waiting.reason, attempts) == (TaskStatus.PENDING, "retry_wait", 1)
        assert manager.queue_stats()["default"].delayed == 1
        await manager.cancel(task_id)
        await clock.advance(600)
        assert (await manager.get(task_id)).status is TaskStatus.CANCELLED
        assert manager.queue_stats()["default"].delayed == 0
    assert attempts == 1


async def test_a_timeout_cancels_an_async_task_and_a_retry_gets_its_full_time() -> None:
    clock = FakeClock()
    manager = TaskManager(clock=clock)
    told: list[bool] = []

    @manager.task(timeout=10, retries=1, delay=1)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(own_context().cancelled)
            raise

    async with started(manager):
        task_id = await manager.enqueue(slow)
        await clock.advance(10)
        assert (await manager.get(task_id)).status is TaskStatus.PENDING
        await clock.advance(10.9)
        assert (await manager.get(task_id)).status is TaskStatus.RUNNING
        await clock.advance(0.2)
        record = await manager.get(task_id)
    assert (record.status, record.attempt, told) == (TaskStatus.FAILED, 1, [True, True])
    assert (record.reason, record.error_type) == ("timeout", "taskflow_otel.errors.TaskTimeoutError")
    assert "after its timeout of 10 s" in (record.error or "")


async def test_a_cancel_wins_over_a_timeout_of_the_same_moment() -> None:
    clock = FakeClock()
    manager = TaskManager(clock=clock)

    @manager.task(timeout=10, retries=1)
    async def slow() -> None:
        await asyncio.Event().wait()

    async with started(manager):
        task_id = await manager.enqueue(slow)
        await settle()
        cancelling = asyncio.create_task(manager.cancel(task_id))
        await clock.advance(10)
        await cancelling
        assert (await manager.get(task_id)).status is TaskStatus.CANCELLED


async def test_an_async_task_that_swallows_its_cancellation_is_reported_and_may_still_succeed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    manager = TaskManager(clock=clock, cancel_grace=5)
    hold = asyncio.Event()

    @manager.task()
    async def stubborn() -> None:
        await stubbornly(hold)

    async with started(manager):
        task_id = await manager.enqueue(stubborn)
        await settle()
        await manager.cancel(task_id)
        await clock.advance(5)
        assert stuck(manager) == 1
        assert "still runs" in caplog.text
        hold.set()
        assert (await manager.wait(task_id, timeout=30)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("requeue", [True, False])
async def test_a_drain_does_not_wait_for_a_task_that_swallows_its_cancellation(
    caplog: pytest.LogCaptureFixture, requeue: bool
) -> None:
    backend = MemoryBackend(durable=True)
    manager = TaskManager(snapshot_backend=backend, shutdown_timeout=0, cancel_grace=0.05)
    rounds = 0
    closed = False

    @manager.task(persist=True, requeue_on_interrupt=requeue)
    async def stubborn() -> None:
        nonlocal rounds, closed
        try:
            while True:
                try:
                    rounds += 1
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    continue
        finally:
            closed = True

    async with started(manager):
        task_id = await manager.enqueue(stubborn)
        await eventually(lambda: rounds > 0, "the task to run")
    assert closed, "the coroutine is left suspended"
    assert "ignored its cancellation and is abandoned" in caplog.text
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the task runs after the shutdown"
    record = await backend.get(task_id)
    assert record is not None
    assert record.status is (TaskStatus.PENDING if requeue else TaskStatus.INTERRUPTED)
    assert [entry.transition for entry in record.timeline].count(Transition.STARTED) == 1


async def test_a_drain_leaves_a_deaf_thread_behind_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    backend = MemoryBackend(durable=True)
    manager = TaskManager(snapshot_backend=backend, shutdown_timeout=0, cancel_grace=0.05)
    entered, release = threading.Event(), threading.Event()

    @manager.task(persist=True)
    def deaf() -> None:
        entered.set()
        release.wait()

    async with started(manager):
        task_id = await manager.enqueue(deaf)
        await eventually(entered.is_set, "the thread to run")
    record = await backend.get(task_id)
    assert record is not None
    assert (record.status, record.reason) == (TaskStatus.INTERRUPTED, "shutdown")
    assert "ignored its cancellation and is abandoned" in caplog.text
    (left,) = [thread for thread in threading.enumerate() if thread.name.startswith("taskflow-task")]
    assert left.daemon, "it would keep the process from ending"
    release.set()
    await eventually(lambda: not left.is_alive(), "the thread to end")
    after = await backend.get(task_id)
    assert after is not None
    assert after.timeline == record.timeline, "history was rewritten"


async def test_a_task_that_was_being_cancelled_when_its_process_died_is_not_run_again() -> None:
    clock = FakeClock()
    backend = MemoryBackend(durable=True)
    entered, release = threading.Event(), threading.Event()
    runs = 0

    def deaf() -> None:
        nonlocal runs
        runs += 1
        entered.set()
        release.wait()

    first, second = (
        TaskManager(snapshot_backend=backend, clock=clock, shutdown_timeout=0, cancel_grace=0.01) for _ in range(2)
    )
    for manager in (first, second):
        manager.task(name="deaf", persist=True, requeue_on_interrupt=True)(deaf)
    async with started(first):
        task_id = await first.enqueue(deaf)
        await eventually(entered.is_set, "the thread to run")
        await first.cancel(task_id)
        (instance,) = await backend.instances()
        assert await backend.declare_dead(instance.instance_id, instance.heartbeat_at)
        async with started(second):
            await settle()
            assert (await second.get(task_id)).status is TaskStatus.INTERRUPTED
        release.set()
    assert runs == 1


async def test_an_idempotency_key_is_free_again_after_a_cancel() -> None:
    manager = TaskManager(snapshot_backend=MemoryBackend(durable=True), queues={"q": QueueConfig(concurrency=1)})

    @manager.task(persist=True, queue="q")
    async def job() -> None: ...

    async with started(manager):
        await manager.pause_queue("q")
        first = await manager.enqueue(job, idempotency_key="k")
        assert await manager.enqueue(job, idempotency_key="k") == first
        await manager.cancel(first)
        second = await manager.enqueue(job, idempotency_key="k")
        assert second != first
        await manager.resume_queue("q")
        assert (await manager.wait(second, timeout=30)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("durable", [True, False], ids=["kept", "history"])
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "runs"])
async def test_a_task_that_someone_deletes_from_the_ledger_is_said_to_be_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, durable: bool, waits: bool
) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db")
    gate = Gate()
    task = manager.task(name="held", persist=durable)(gate.run)
    async with started(manager):
        with caplog.at_level(logging.WARNING, logger="taskflow_otel"):
            task_id = await manager.enqueue(task, delay=3600 if waits else None)
            if not waits:
                await asyncio.wait_for(gate.entered.wait(), WAIT)
            # So that its start is written, if that is only history.
            await manager.find()
            with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as by_hand:
                by_hand.execute("DELETE FROM taskflow_tasks")
            if waits and durable:
                with pytest.raises(TaskNotFoundError):
                    await manager.cancel(task_id)
            elif waits:
                # Its record is this process's; that it was cancelled is the truth.
                assert (await manager.cancel(task_id)).status is TaskStatus.CANCELLED
            else:
                gate.opened.set()
                if durable:
                    with pytest.raises(TaskNotFoundError):
                        await manager.wait(task_id, WAIT)
                else:
                    assert (await manager.wait(task_id, WAIT)).status is TaskStatus.SUCCESS
        said = [record.getMessage() for record in caplog.records]
        deleted = f"task {task_id} was deleted from the ledger before it had finished"
        assert [line.partition(";")[0] for line in said] == ([deleted] if durable and not waits else [])


async def test_a_start_that_is_committed_late_is_not_published_if_a_cancellation_undoes_it() -> None:
    backend, told, clock = HeldBackend(), InMemoryLogger(), FakeClock()
    manager = TaskManager(snapshot_backend=backend, clock=clock, loggers=[told])

    async def never() -> None:
        raise AssertionError("it was cancelled before it ran")

    job = manager.task(name="job", persist=True)(never)
    async with started(manager):
        backend.hold = updates_to("running")
        task_id = await manager.enqueue(job)
        await backend.holding.wait()
        # The start is given up, and tried again a second later.
        await clock.advance(5.5)
        cancelling = asyncio.ensure_future(manager.cancel(task_id))
        await settle()
        backend.release()
        assert (await cancelling).status is TaskStatus.CANCELLED
        await settle()
        stored = await backend.get(task_id)
    assert stored is not None
    assert [event.transition for event in told.lifecycle_events] == [entry.transition for entry in stored.timeline]
