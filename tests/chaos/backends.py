"""The backends of a storm, by name."""

from __future__ import annotations

from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend


def make_backend(name: str, url: str) -> Backend:
    """The backend of this name at this address, with time limits that suit a database that goes away."""
    match name:
        case "sqlite":
            return SqliteBackend(url)
        case "postgres":
            return PostgresBackend(url, timeout=5)
        case "mysql":
            return MySQLBackend(url, timeout=5)
        case "redis":
            return RedisBackend(url, timeout=2)
    raise ValueError(f"there is no backend {name!r}")
