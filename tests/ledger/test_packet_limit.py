"""A task larger than the database server takes at once: its caller gets an error, and nobody else notices."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from sqlalchemy import make_url

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import MySQLBackend
from taskflow_otel.errors import BackendError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.clock import FakeClock
from tests.asgi import post, running
from tests.managers import WAIT, finish, started
from tests.servers import MariaDBServer


async def test_a_task_over_the_packet_limit_is_refused_alone_and_those_beside_it_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran: list[int] = []
    with MariaDBServer({"max-allowed-packet": "512K"}) as server:
        backend = MySQLBackend(server.fresh_url())
        # No time passes: nothing is given up, and a second try would wait for ever.
        manager = TaskManager(snapshot_backend=backend, clock=FakeClock())

        @manager.task(persist=True)
        async def measure(text: str) -> None:
            ran.append(len(text))

        async with started(manager), asyncio.timeout(2 * WAIT):
            lengths = [*range(10), 900_000, *range(10, 20)]
            innocent = await asyncio.gather(
                *(manager.enqueue(measure, "x" * length) for length in lengths), return_exceptions=True
            )
            refused = innocent.pop(10)
            assert isinstance(refused, BackendError)
            assert not refused.transient
            assert "max_allowed_packet" in str(refused)
            assert not manager.engine.vitals.backend_failing
            for task_id in [*innocent, await manager.enqueue(measure, "x" * 20)]:
                assert isinstance(task_id, str), task_id
                assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS
            assert not manager.engine.vitals.backend_failing
            assert sorted(ran) == list(range(21))
            assert (await backend.counts(TaskQuery())).by_status == {TaskStatus.SUCCESS: 21}
        assert "backend fails" not in caplog.text
        assert "history" not in caplog.text


async def test_the_request_that_adds_such_a_task_gets_422_and_the_record_names_the_limit() -> None:
    with MariaDBServer({"max-allowed-packet": "512K"}) as server:
        url = server.fresh_url()
        manager, app = TaskManager(snapshot_backend=MySQLBackend(url), commit_timeout=2 * WAIT), FastAPI()

        @manager.task(persist=True)
        async def measure(text: str) -> None: ...

        @app.post("/{length}")
        async def route(length: int, tasks: ManagedBackgroundTasks) -> str:
            ids.append(tasks.add_task(measure, "x" * length))
            return ids[-1]

        ids: list[str] = []
        TaskAdmin(app, manager, auto_install=True)
        async with running(app):
            answer = await post(app, "/900000")
            assert (answer.status, "retry-after" in answer.headers) == (422, False)
            record = await manager.get(ids[0])
            assert (record.status, record.reason) == (TaskStatus.REJECTED, "commit_failed")
            assert record.error is not None
            assert "max_allowed_packet" in record.error
            assert str(make_url(url).host) not in record.error
            assert (await post(app, "/10")).status == 200
