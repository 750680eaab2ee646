"""Queues and schedules of the whole fleet, on the real engine with several instances."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import QueueConfig, TaskAdmin, TaskManager
from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.deployment import RUN
from taskflow_otel.model.board import QueueLoad, Said, ScheduleTrouble
from taskflow_otel.model.status import TaskStatus
from tests.managers import Gate, started
from tests.waiting import eventually
from tests.web.house import House, make_record


@asynccontextmanager
async def two(path: str) -> AsyncIterator[list[tuple[TaskManager, httpx.AsyncClient]]]:
    """Two instances on one database, each with its API."""
    queues = {"mail": QueueConfig(concurrency=2), "video": QueueConfig(concurrency=1, run="pool")}
    managers = [TaskManager(snapshot_db=path, queues=queues) for _ in range(2)]
    clients = []
    for manager in managers:
        app = FastAPI()
        TaskAdmin(app, manager, auth=("ada", "secret"))
        transport = httpx.ASGITransport(app)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://test", auth=("ada", "secret")))
    async with started(managers[0]), started(managers[1]):
        yield list(zip(managers, clients, strict=True))
        for client in clients:
            await client.aclose()


async def test_what_waits_in_the_pool_is_ready_on_no_instance_and_in_the_sum(tmp_path: Any) -> None:
    async with two(str(tmp_path / "tasks.db")) as instances:
        (first, client), _ = instances
        gate = Gate()
        for manager, _ in instances:
            manager.task(persist=True, queue="video", name="render")(gate.run)
        for _ in range(5):
            await first.enqueue(gate.run)

        async def video() -> dict[str, Any]:
            found: dict[str, Any] = next(
                queue for queue in (await client.get("/tasks/queues")).json() if queue["name"] == "video"
            )
            return found

        async def both_work() -> bool:
            queue = await video()
            return (queue["running"], queue["in_pool"]) == (2, 3)

        await eventually(both_work, "a task on each instance")
        queue = await video()
        assert (queue["ready"], [one["ready"] for one in queue["instances"]]) == (3, [0, 0])
        assert queue["oldest_ready_age_seconds"] is not None
        gate.opened.set()


async def test_what_waits_for_a_queue_that_no_instance_declares_is_shown_everywhere(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_otel.engine.sharing._RARELY", 0.02)
    path = str(tmp_path / "tasks.db")
    monkeypatch.setenv(RUN, "none")
    before = TaskManager(snapshot_db=path, queues={"video": QueueConfig()})
    monkeypatch.delenv(RUN)
    render = before.task(persist=True, queue="video", name="render")(Gate().run)
    async with started(before):
        ids = [await before.enqueue(render) for _ in range(2)]

        async def given() -> bool:
            return all([(await before.get(task_id)).instance == POOL for task_id in ids])

        await eventually(given, "the gift")
    # The next release has neither the queue nor the task, and shares nothing.
    after, app = TaskManager(snapshot_db=path), FastAPI()
    TaskAdmin(app, after)
    transport = httpx.ASGITransport(app)
    async with started(after), httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def video() -> dict[str, Any] | None:
            queues = (await client.get("/tasks/queues")).json()
            return next((queue for queue in queues if queue["name"] == "video"), None)

        queue = await video()
        assert queue is not None
        assert (queue["in_pool"], queue["ready"], queue["claimers"], queue["slots"]) == (2, 2, 0, 0)
        assert (queue["instances"], queue["concurrency"], queue["paused"]) == ([], None, False)
        assert queue["oldest_ready_age_seconds"] > 0

        async def overview() -> dict[str, Any]:
            found: dict[str, Any] = (await client.get("/tasks/overview")).json()
            return found

        async def told() -> bool:
            return bool((await overview())["unclaimed_queues"] == ["video"])

        await eventually(told, "the look at the pool")
        assert (await overview())["oldest_ready_age_seconds"] > 0

        def shown() -> tuple[float | None, ...]:
            read, labels = after.metrics.registry.get_sample_value, {"queue": "video"}
            return read("taskflow_pool_depth", labels), read("taskflow_pool_claimers", labels)

        await eventually(lambda: shown() == (2, 0), "the gauges")
        for task_id in ids:
            assert (await client.post(f"/tasks/{task_id}/cancel")).status_code == 202
        assert await video() is None

        async def settled() -> bool:
            return not (await overview())["unclaimed_queues"]

        await eventually(settled, "the next look")


async def test_a_process_that_claims_no_task_has_no_slots_of_a_shared_queue(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "tasks.db")
    monkeypatch.setenv(RUN, "none")
    web = TaskManager(snapshot_db=path, queues={"mail": QueueConfig(concurrency=2)})
    monkeypatch.setenv(RUN, "pool")
    worker = TaskManager(snapshot_db=path, queues={"mail": QueueConfig(concurrency=2)})
    app = FastAPI()
    TaskAdmin(app, web)
    transport = httpx.ASGITransport(app)
    async with started(web), started(worker), httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def slots() -> list[int | None]:
            queues = (await client.get("/tasks/queues")).json()
            return [queue["slots"] for queue in queues if queue["name"] == "mail" and len(queue["instances"]) == 2]

        async def are_those_of_the_worker() -> bool:
            return await slots() == [2]

        await eventually(are_those_of_the_worker, "the news of the worker")


async def test_a_queue_is_summed_over_the_instances_and_says_who_paused_it(tmp_path: Any) -> None:
    async with two(str(tmp_path / "tasks.db")) as instances:
        gates = []
        for manager, _ in instances:
            gate = Gate()
            gates.append(gate)
            task = manager.task(name="send", queue="mail")(gate.run)
            for _ in range(3):
                await manager.enqueue(task)
            await gate.entered.wait()

        async def mail(client: httpx.AsyncClient) -> dict[str, Any]:
            queues = (await client.get("/tasks/queues")).json()
            found: dict[str, Any] = next(queue for queue in queues if queue["name"] == "mail")
            return found

        async def summed() -> bool:
            return all([(await mail(client))["ready"] == 2 for _, client in instances])

        await eventually(summed, "the load of both instances on both")
        for _, client in instances:
            queue = await mail(client)
            assert (queue["running"], queue["slots"], queue["concurrency"]) == (4, 4, 2)
            assert [(one["running"], one["ready"]) for one in queue["instances"]] == [(2, 1), (2, 1)]
            assert queue["oldest_ready_age_seconds"] is not None
            assert (queue["paused"], queue["paused_by"]) == (False, None)
        paused = await instances[0][1].post("/tasks/queues/mail/pause?reason=down")
        assert paused.status_code == 200, paused.text

        async def known() -> bool:
            return bool((await mail(instances[1][1]))["paused"])

        await eventually(known, "the pause on the other instance")
        queue = await mail(instances[1][1])
        assert (queue["paused_by"], queue["paused_reason"]) == ("ada", "down")
        assert queue["paused_since"] is not None
        resumed = (await instances[1][1].post("/tasks/queues/mail/resume")).json()
        assert (resumed["paused_by"], resumed["paused_since"]) == (None, None)
        for gate in gates:
            gate.opened.set()


async def test_schedules_show_what_all_instances_missed_and_which_runs_failed(
    client: httpx.AsyncClient, engine: House, monkeypatch: Any
) -> None:
    engine.schedule("nightly")
    func_name = engine.schedule_of("nightly").func_name
    for status in (TaskStatus.FAILED, TaskStatus.INTERRUPTED, TaskStatus.SUCCESS):
        engine.keep(make_record(func_name, status))
    engine.keep(make_record(func_name, TaskStatus.FAILED, age=200_000))
    said = {
        "one": Said({"default": QueueLoad()}, {"nightly": ScheduleTrouble(2, 1, "no room")}),
        "two": Said({}, {"nightly": ScheduleTrouble(3, 0)}),
    }

    async def read() -> dict[str, Said]:
        return said

    monkeypatch.setattr(engine.manager.engine.board, "read", read)
    [schedule] = (await client.get("/tasks/schedules")).json()
    assert (schedule["missed"], schedule["errors"], schedule["last_error"]) == (5, 1, "no room")
    assert (schedule["failed_runs"], schedule["last_status"]) == (2, None)
