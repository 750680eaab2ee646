"""Arguments that die with their request."""

import io
from collections.abc import Callable

import pytest
from fastapi import FastAPI, UploadFile
from starlette.requests import Request

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager
from taskflow_otel.errors import TaskArgumentError
from tests.asgi import post, running


async def test_arguments_that_die_with_the_request_are_refused_for_tasks_that_outlive_it() -> None:
    manager, app = TaskManager(), FastAPI()
    refused: list[str] = []

    @manager.task()
    async def declared(value: object, *, more: object = None) -> None: ...

    async def undecorated(value: object) -> None: ...

    @app.post("/")
    async def route(request: Request, tasks: ManagedBackgroundTasks) -> None:
        upload = UploadFile(io.BytesIO(b"x"))
        adds: tuple[Callable[[], object], ...] = (
            lambda: tasks.add_task(declared, upload),
            lambda: tasks.add_task(declared, 1, more=[upload]),
            lambda: tasks.add_task(declared, {"file": upload}),
            lambda: tasks.add_task(declared, request),
            lambda: tasks.add_task(declared, tasks),
            lambda: tasks.add_task(undecorated, upload, delay=1),
            lambda: tasks.add_task(undecorated, upload, eager=True),
        )
        for add in adds:
            with pytest.raises(TaskArgumentError) as caught:
                add()
            refused.append(str(caught.value))
        with pytest.raises(TaskArgumentError):
            await manager.enqueue(declared, upload)
        tasks.add_task(undecorated, upload)

    TaskAdmin(app, manager)
    async with running(app):
        assert (await post(app, "/")).status == 200
    assert "await file.read()" in refused[0]
    assert len(refused) == 7
