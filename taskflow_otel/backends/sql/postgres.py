"""Tasks kept in PostgreSQL."""

from __future__ import annotations

from typing import Any

from taskflow_otel.backends.sql.dialects import PostgresDialect
from taskflow_otel.backends.sql.servers import ServerBackend

_CONNECT_SECONDS = 10


class PostgresBackend(ServerBackend):
    """Tasks in a PostgreSQL database, 13 or later (extra `postgres`, psycopg 3).

    `url`: `postgresql://user:password@host/database`. `pool_size`: connections of this process. `timeout`: seconds
    that one operation may take, the wait for a connection included, before it raises `BackendUnavailableError`.

    Raises `ConfigurationError` for a URL of another kind, `MissingExtraError` without psycopg.
    """

    name = "postgres"
    _begin = "BEGIN ISOLATION LEVEL READ COMMITTED"

    def __init__(self, url: str, *, pool_size: int = 5, timeout: float = 30.0) -> None:
        super().__init__(
            url,
            PostgresDialect(),
            schemes=("postgresql", "postgres"),
            driver="psycopg",
            extra="postgres",
            pool_size=pool_size,
            timeout=timeout,
        )

    def _connect_args(self) -> dict[str, Any]:
        return {"connect_timeout": _CONNECT_SECONDS, "application_name": "taskflow-otel"}
