"""A database that no longer answers delays a shutdown for its timeout and grace, not for the limits of the database."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from taskflow_otel import TaskManager
from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend
from tests.managers import Gate
from tests.servers import MariaDBServer, RedisServer
from tests.waiting import eventually

TIMEOUT, GRACE = 1.0, 2.0
LEASE, LIMIT = 600.0, 300.0
"""One operation of the database may take a hundred times as long as the shutdown."""


class Storage:
    """A database that a test can hang."""

    def __init__(self, backend: Backend, hang: Callable[[], object], resume: Callable[[], object]) -> None:
        self.backend, self.hang, self.resume = backend, hang, resume


@contextmanager
def sqlite_storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """Another program begins a write and does not end it."""
    directory: Path = request.getfixturevalue("tmp_path")
    path = directory / "tasks.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        backend = SqliteBackend(path)
        yield Storage(backend, lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("ROLLBACK"))


@contextmanager
def postgres_storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """Another program locks the tables."""
    url: str = request.getfixturevalue("postgres_url")
    with psycopg.connect(url) as other:
        lock = "LOCK TABLE taskflow_tasks, taskflow_instances, taskflow_settings IN ACCESS EXCLUSIVE MODE"
        yield Storage(PostgresBackend(url, timeout=LIMIT), lambda: other.execute(lock), other.rollback)


@contextmanager
def mysql_storage(_: pytest.FixtureRequest) -> Iterator[Storage]:
    """The server is stopped."""
    with MariaDBServer() as server:
        yield Storage(MySQLBackend(server.fresh_url(), timeout=LIMIT), server.pause, server.resume)


@contextmanager
def redis_storage(_: pytest.FixtureRequest) -> Iterator[Storage]:
    """The server is stopped."""
    with RedisServer() as server:
        yield Storage(RedisBackend(server.fresh_url(), timeout=LIMIT), server.pause, server.resume)


STORAGES = {"sqlite": sqlite_storage, "postgres": postgres_storage, "mysql": mysql_storage, "redis": redis_storage}


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_shutdown_ends_although_the_database_does_not_answer(
    request: pytest.FixtureRequest, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with STORAGES[kind](request) as storage:
        manager = TaskManager(
            snapshot_backend=storage.backend, lease_seconds=LEASE, shutdown_timeout=TIMEOUT, cancel_grace=GRACE
        )
        gates = [Gate() for _ in range(3)]
        jobs = [manager.task(name=f"job{number}", persist=True)(gate.run) for number, gate in enumerate(gates)]
        await manager.startup()
        for job, gate in zip(jobs, gates, strict=True):
            await manager.enqueue(job)
            await gate.entered.wait()
        storage.hang()
        try:
            # One task ends by itself, whose outcome cannot be written; the others are cancelled.
            gates[0].opened.set()
            # Only a guard, ten times the limit: a shutdown that waits for the database would need 300 seconds.
            async with asyncio.timeout(10 * (TIMEOUT + GRACE)):
                await manager.shutdown()
        finally:
            storage.resume()
        assert [gate.cancelled for gate in gates] == [False, True, True]
        assert "the backend did not take the last changes in time" in caplog.text
        assert "this instance could not sign off" in caplog.text
        await eventually(lambda: len(asyncio.all_tasks()) == 1, "what was left behind to end")
