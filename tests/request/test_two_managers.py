"""Two managers on one application: its routes get the tasks of the installed one; neither takes those of the other."""

from __future__ import annotations

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.errors import ConfigurationError
from tests.asgi import running
from tests.managers import finish


@pytest.mark.parametrize("installed_first", [True, False])
async def test_of_two_managers_on_one_app_each_refuses_the_tasks_of_the_other(installed_first: bool) -> None:
    app = FastAPI()
    one, other = TaskManager(), TaskManager(snapshot_backend=MemoryBackend(durable=True))
    if installed_first:
        one.install(app)
    other.init_app(app)
    one.install(app)
    tasks_of_one = one.task()(_nothing)

    @other.task(persist=True)
    async def theirs() -> None: ...

    refused: list[str] = []
    ids: list[str] = []

    @app.post("/")
    async def route(tasks: BackgroundTasks, others: ManagedBackgroundTasks = Depends(other.get_tasks)) -> None:
        for mine, foreign in ((tasks, theirs), (others, tasks_of_one)):
            with pytest.raises(ConfigurationError, match="is a task of another TaskManager") as caught:
                mine.add_task(foreign)
            refused.append(str(caught.value))
        assert isinstance(tasks, ManagedBackgroundTasks)
        ids.append(tasks.add_task(tasks_of_one))
        ids.append(others.add_task(theirs))

    async with (
        running(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.post("/")).status_code == 200
        assert len(refused) == 2
        for manager, task_id in zip((one, other), ids, strict=True):
            assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS


async def _nothing() -> None: ...


def test_a_second_manager_is_not_installed_on_one_application() -> None:
    app = FastAPI()
    first, second = TaskManager(), TaskManager()
    first.install(app)
    first.install(app)
    with pytest.raises(ConfigurationError, match="another TaskManager is installed"):
        second.install(app)
    with pytest.raises(ConfigurationError, match="another TaskManager is installed"):
        TaskAdmin(app, second, path="/second", auto_install=True)
