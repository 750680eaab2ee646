"""The backends of a storm, by name."""

from __future__ import annotations

from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend


def make_backend(name: str, url: str) -> Backend:
    """The backend of this name at this address; its time limits follow from the lease of the storm."""
    match name:
        case "sqlite":
            return SqliteBackend(url)
        case "postgres" | "pgbouncer":
            return PostgresBackend(url)
        case "mysql":
            return MySQLBackend(url)
        case "redis":
            return RedisBackend(url)
    raise ValueError(f"there is no backend {name!r}")
