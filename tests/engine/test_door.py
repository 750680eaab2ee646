"""The way in: tasks are taken while the manager runs, and what cannot be one is refused at the call."""

from __future__ import annotations

import inspect

import pytest
from fastapi import FastAPI

from taskflow_otel import (
    ConfigurationError,
    ManagedBackgroundTasks,
    NotStartedError,
    TaskAdmin,
    TaskManager,
)
from tests.asgi import post
from tests.engine.declared_tasks import job


async def test_something_that_cannot_be_called_is_no_task(manager: TaskManager) -> None:
    with pytest.raises(ConfigurationError, match="add_task needs a function, not 'send_email'"):
        await manager.enqueue("send_email")  # type: ignore[call-overload]  # that is the mistake


async def test_a_coroutine_in_place_of_its_function_is_refused_with_the_way_out(manager: TaskManager) -> None:
    coroutine = job()
    with pytest.raises(ConfigurationError, match=r"add_task\(send, address\), not add_task\(send\(address\)\)"):
        await manager.enqueue(coroutine)  # type: ignore[call-overload]  # that is the mistake
    # Closed: Python does not warn in addition that it was never awaited.
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


async def test_enqueueing_before_the_start_says_how_to_start() -> None:
    with pytest.raises(NotStartedError, match=r"is not started\. Mount it with TaskAdmin.*await task_manager\.startup"):
        await TaskManager().enqueue(job)


async def test_a_route_whose_manager_was_never_started_says_so() -> None:
    app, manager = FastAPI(), TaskManager()

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> None:
        tasks.add_task(job)

    TaskAdmin(app, manager, auto_install=True)
    answer = await post(app, "/")  # without the lifespan
    assert answer.status == 500
    assert isinstance(answer.error, NotStartedError)


async def test_enqueueing_after_the_end_says_that_it_has_ended() -> None:
    manager = TaskManager()
    await manager.startup()
    await manager.shutdown()
    with pytest.raises(NotStartedError, match="is stopped"):
        await manager.enqueue(job)
