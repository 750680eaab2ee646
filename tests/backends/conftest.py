"""One factory for each backend, over storage that is empty when a test begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from taskflow_otel.backends import Backend, MemoryBackend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend

BackendFactory = Callable[[], Backend]


def _memory(request: pytest.FixtureRequest) -> BackendFactory:
    backend = MemoryBackend(durable=True)
    return lambda: backend


def _sqlite(request: pytest.FixtureRequest) -> BackendFactory:
    path: Path = request.getfixturevalue("tmp_path")
    return lambda: SqliteBackend(path / "tasks.db")


def _postgres(request: pytest.FixtureRequest) -> BackendFactory:
    url: str = request.getfixturevalue("postgres_url")
    return lambda: PostgresBackend(url)


def _pgbouncer(request: pytest.FixtureRequest) -> BackendFactory:
    url: str = request.getfixturevalue("pgbouncer_url")
    return lambda: PostgresBackend(url)


def _mysql(request: pytest.FixtureRequest) -> BackendFactory:
    url: str = request.getfixturevalue("mariadb_url")
    return lambda: MySQLBackend(url)


def _redis(request: pytest.FixtureRequest) -> BackendFactory:
    url: str = request.getfixturevalue("redis_url")
    return lambda: RedisBackend(url)


FACTORIES: dict[str, Callable[[pytest.FixtureRequest], BackendFactory]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgres": _postgres,
    "pgbouncer": _pgbouncer,
    "mysql": _mysql,
    "redis": _redis,
}


@pytest.fixture
def backend_factory(request: pytest.FixtureRequest) -> BackendFactory:
    """Makes unopened backends on one storage; parametrised indirectly with a name of `FACTORIES`."""
    return FACTORIES[request.param](request)
