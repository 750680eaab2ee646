"""Liveness and readiness for orchestrators, and the reasons for people."""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI

from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.manager import TaskManager
from taskflow_otel.model.vocabulary import EngineState
from tests.managers import Gate
from tests.waiting import eventually
from tests.web.conftest import ClientOf
from tests.web.house import House
from tests.web.users import USER


async def test_probes_need_no_login_and_health_does(client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    for probe in ("livez", "readyz"):
        answer = await client.get(f"/tasks/{probe}")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert (await client.get("/tasks/health")).status_code == 401


async def test_an_instance_that_takes_no_tasks_is_alive_and_not_ready() -> None:
    manager, gate = TaskManager(), Gate()

    async def alive_and_ready() -> tuple[int, int, object]:
        # An application of its own each time: an answer holds for a second.
        app = FastAPI()
        TaskAdmin(app, manager)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            alive, ready = await client.get("/tasks/livez"), await client.get("/tasks/readyz")
        return alive.status_code, ready.status_code, ready.json()

    not_ready = (200, 503, {"status": "unavailable"})
    assert await alive_and_ready() == not_ready, "it is new"
    await manager.startup()
    assert await alive_and_ready() == (200, 200, {"status": "ok"})
    await manager.enqueue(gate.run)
    await gate.entered.wait()
    stopping = asyncio.create_task(manager.shutdown())
    await eventually(lambda: manager.engine.state is EngineState.DRAINING, "the drain to begin")
    assert await alive_and_ready() == not_ready, "it drains"
    gate.opened.set()
    await stopping
    assert await alive_and_ready() == not_ready, "it has stopped"


async def test_readiness_keeps_to_itself_what_is_wrong_with_the_backend(
    client: httpx.AsyncClient, engine: House
) -> None:
    engine.backend.unreadable = BackendUnavailableError("db.internal:5432 does not answer")
    answer = await client.get("/tasks/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
    assert "db.internal" in (await client.get("/tasks/health")).json()["reasons"][0]


async def test_a_manager_whose_lifespan_never_ran_says_so_on_every_route() -> None:
    manager, app = TaskManager(), FastAPI()
    TaskAdmin(app, manager)
    kept = {"/tasks/livez": 200, "/tasks/session": 200, "/tasks/readyz": 503, "/tasks/health": 503}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path, methods in app.openapi()["paths"].items():
            for method in methods:
                answer = await client.request(
                    method, path.format(task_id="x", operation_id="x", fingerprint="0" * 16, name="default")
                )
                if path in kept:
                    assert answer.status_code == kept[path]
                else:
                    assert answer.status_code == 503, (method, path)
                    assert "run the app's lifespan" in answer.json()["detail"]
