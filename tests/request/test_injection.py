"""How routes get their tasks: annotations, options, nesting, and what add_task hands back."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Annotated
from uuid import UUID

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.dependencies import utils as solving

from taskflow_otel import ConfigurationError, ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from tests.asgi import post, running

WAIT = 60.0


@pytest.mark.parametrize("auto_install", [True, False])
async def test_the_explicit_annotation_is_managed_with_and_without_auto_install(auto_install: bool) -> None:
    app, manager = FastAPI(), TaskManager()
    ran: list[int] = []

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        return tasks.add_task(ran.append, 1)

    TaskAdmin(app, manager, auto_install=auto_install)
    async with running(app):
        answer = await post(app, "/")
        assert UUID(answer.json).version == 7
        assert (await manager.wait(answer.json, WAIT)).status is TaskStatus.SUCCESS
    assert ran == [1]


@pytest.mark.parametrize("auto_install", [True, False])
async def test_all_that_ask_in_one_request_share_the_same_tasks(auto_install: bool) -> None:
    app, manager = FastAPI(), TaskManager()
    ran: list[str] = []

    def native(tasks: BackgroundTasks) -> BackgroundTasks:
        return tasks

    def explicit(tasks: Annotated[ManagedBackgroundTasks, "documented elsewhere"]) -> ManagedBackgroundTasks:
        return tasks

    @app.post("/")
    async def route(
        first: BackgroundTasks = Depends(native),
        second: ManagedBackgroundTasks = Depends(explicit),
        third: ManagedBackgroundTasks = Depends(manager.get_tasks),
    ) -> list[str]:
        assert first is second
        return [second.add_task(ran.append, "annotated"), third.add_task(ran.append, "from the manager")]

    TaskAdmin(app, manager, auto_install=auto_install)
    async with running(app):
        for task_id in (await post(app, "/")).json:
            await manager.wait(task_id, WAIT)
    assert sorted(ran) == ["annotated", "from the manager"]


async def test_an_undecorated_function_runs_with_default_options() -> None:
    app, manager = FastAPI(), TaskManager()

    class Sender:
        def __init__(self) -> None:
            self.sent: list[object] = []

        def send(self, what: object) -> None:
            self.sent.append(what)

    sender, unstorable = Sender(), object()

    @app.post("/")
    async def route(tasks: BackgroundTasks) -> str:
        task_id: str = tasks.add_task(sender.send, unstorable)  # type: ignore[assignment,func-returns-value]  # an id
        return task_id

    TaskAdmin(app, manager, auto_install=True)
    async with running(app):
        record = await manager.wait((await post(app, "/")).json, WAIT)
    assert sender.sent == [unstorable]
    assert (record.func_name, record.queue, record.executor, record.persisted) == ("send", "default", "thread", False)


async def test_options_of_add_task_reach_the_record_and_not_the_function() -> None:
    app, manager = FastAPI(), TaskManager()
    seen: list[tuple[object, ...]] = []

    @manager.task()
    async def job(*args: object, **kwargs: object) -> None:
        seen.append((args, kwargs))

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        return tasks.add_task(job, 1, x=2, tags={"who": 7}, priority=9, idempotency_key="k", delay=0.001)

    @app.post("/own")
    async def own_words(tasks: ManagedBackgroundTasks) -> str:
        return tasks.add_task(partial(job, 1, tags="mine", delay="soon"), priority=9)

    TaskAdmin(app, manager, auto_install=True)
    async with running(app):
        record = await manager.wait((await post(app, "/")).json, WAIT)
        other = await manager.wait((await post(app, "/own")).json, WAIT)
    # What a `partial` holds is the function's, whatever its name.
    assert seen == [((1,), {"x": 2}), ((1,), {"tags": "mine", "delay": "soon"})]
    assert (other.tags, other.priority) == ({}, 9)
    assert (record.tags, record.priority, record.idempotency_key) == ({"who": "7"}, 9, "k")
    assert record.run_at is not None


def test_a_decorated_function_stays_what_it_was() -> None:
    manager = TaskManager()

    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    decorated = manager.task(retries=3)(double)
    assert decorated is double
    assert decorated(4) == 8
    assert inspect.getdoc(decorated) == "Twice as much."


def test_installing_twice_is_harmless() -> None:
    app, manager = FastAPI(), TaskManager()
    manager.install(app)
    before = list(app.user_middleware)
    manager.install(app)
    manager.init_app(app)
    assert app.user_middleware == before


async def test_mounting_on_an_application_that_runs_already_is_an_error_that_says_so() -> None:
    app = FastAPI()
    await post(app, "/")
    with pytest.raises(ConfigurationError, match="already started"):
        TaskManager().init_app(app)


def test_a_fastapi_that_makes_background_tasks_otherwise_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solving, "BackgroundTasks", object())
    with pytest.raises(ConfigurationError, match=r"Depends\(task_manager\.get_tasks\)"):
        TaskManager().install(FastAPI())
