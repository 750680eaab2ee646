"""Namespaces: applications that share a database keep apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskflow_otel.backends import MySQLBackend, PostgresBackend, SqliteBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.testing.backends.fixtures import APPLIED
from taskflow_otel.testing.backends.samples import make_task


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mysql"])
async def test_two_namespaces_in_one_database_do_not_see_each_other(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def make(namespace: str | None) -> SqliteBackend | PostgresBackend | MySQLBackend:
        if kind == "sqlite":
            return SqliteBackend(tmp_path / "x.db", namespace=namespace)
        if kind == "postgres":
            return PostgresBackend(request.getfixturevalue("postgres_url"), namespace=namespace)
        return MySQLBackend(request.getfixturevalue("mariadb_url"), namespace=namespace)

    backends = [make(namespace) for namespace in (None, "shop", "mail")]
    for backend in backends:
        await backend.open()
        await backend.close()
        await backend.open()
    tasks = [make_task(idempotency_key="k") for _ in backends]
    for backend, task in zip(backends, tasks, strict=True):
        assert await backend.apply([Insert(task)]) == [APPLIED]
    for backend, task in zip(backends, tasks, strict=True):
        assert await backend.holder_of("k") == task.task_id
        found = [await backend.get(other.task_id) is not None for other in tasks]
        assert found == [other is task for other in tasks]
        await backend.close()
