"""What a test asks about the tasks of an application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient

from taskflow_otel import ConfigurationError, ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.testing import FakeClock, TaskTester
from tests.managers import started


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with started(TaskManager()) as running:
        yield running


async def test_arguments_are_compared_as_the_function_sees_them(manager: TaskManager) -> None:
    @manager.task(name="mail")
    async def send(user: UUID, copies: int = 1, *, urgent: bool = False) -> None: ...

    @manager.task()
    async def other() -> None: ...

    await manager.enqueue(send, UUID(int=0))
    tasks = TaskTester(manager)
    with pytest.raises(AssertionError, match="no task of mail was added; added were tasks of nothing"):
        tasks.assert_enqueued(send)
    tasks.assert_not_enqueued(send)
    task_id = await manager.enqueue(send, UUID(int=7), copies=1)
    for found in (
        tasks.assert_enqueued(send),
        tasks.assert_enqueued(send, UUID(int=7)),
        tasks.assert_enqueued(send, user=UUID(int=7), urgent=False),
    ):
        assert found.task_id == task_id
    with pytest.raises(AssertionError, match=r"no task mail\(UUID\(.*7'\), 2\) was added; added were mail\(user=.*7'"):
        tasks.assert_enqueued(send, UUID(int=7), 2)
    with pytest.raises(AssertionError, match="1 tasks of mail were added"):
        tasks.assert_not_enqueued(send)
    tasks.assert_not_enqueued(other)
    with pytest.raises(ConfigurationError, match="is not a task of this TaskManager"):
        tasks.assert_enqueued(print)
    await tasks.run_pending()
    with tasks:
        assert tasks.added == []


async def test_encrypted_arguments_are_compared_too() -> None:
    pytest.importorskip("cryptography")
    from cryptography.fernet import Fernet

    async with started(TaskManager(encrypt_args_key=Fernet.generate_key())) as manager:

        @manager.task()
        async def pay(card: str) -> None: ...

        tasks = TaskTester(manager)
        await manager.enqueue(pay, "tok")
        tasks.assert_enqueued(pay, "tok")
        with pytest.raises(AssertionError, match="card='tok'"):
            tasks.assert_enqueued(pay, "other")


async def test_pending_tasks_run_with_those_that_they_add_and_their_waits_pass_at_once() -> None:
    clock = FakeClock()
    async with started(TaskManager(clock=clock)) as manager:

        @manager.task(retries=1, delay=30)
        async def first() -> None:
            if len(tasks.added) == 1:
                await manager.enqueue(second, delay=60)
                raise OSError("once")

        @manager.task()
        async def second() -> None: ...

        tasks = TaskTester(manager, clock=clock)
        await manager.enqueue(first)
        done = await tasks.run_pending()
        assert [(record.func_name, record.status) for record in done] == [
            ("first", TaskStatus.SUCCESS),
            ("second", TaskStatus.SUCCESS),
        ]
        assert clock.monotonic() >= 60


async def test_what_does_not_finish_is_named(manager: TaskManager) -> None:
    gate = asyncio.Event()

    @manager.task()
    async def endless() -> None:
        await gate.wait()

    tasks = TaskTester(manager)
    await manager.enqueue(endless)
    with pytest.raises(TimeoutError, match=r"not finished after 0\.05 s: endless running"):
        await tasks.run_pending(0.05)
    gate.set()
    await tasks.run_pending()


async def test_an_inline_request_ends_after_its_tasks_and_those_that_they_add() -> None:
    app, manager, ran = FastAPI(), TaskManager(), list[str]()
    TaskAdmin(app, manager, auto_install=True)

    @manager.task()
    async def second() -> None:
        ran.append("second")

    @manager.task(retries=1, delay=0.01)
    async def first() -> None:
        ran.append("first")
        if len(ran) == 1:
            raise ConnectionError
        await manager.enqueue(second)

    @app.post("/")
    async def route(background_tasks: BackgroundTasks) -> None:
        background_tasks.add_task(first)

    @app.post("/stuck")
    async def stuck(tasks: ManagedBackgroundTasks) -> None:
        tasks.add_task(second, delay=3600)

    tasks = TaskTester(manager)
    with TestClient(tasks.inline(app)) as client:
        assert client.post("/").status_code == 200
        assert ran == ["first", "first", "second"]
    tasks.clear()
    with (
        TestClient(tasks.inline(app, timeout=0.1)) as client,
        pytest.raises(TimeoutError, match="second pending"),
    ):
        client.post("/stuck")
