"""Tasks kept in MySQL or MariaDB."""

from __future__ import annotations

from typing import Any

from taskflow_otel.backends.sql.dialects import MySQLDialect
from taskflow_otel.backends.sql.servers import ServerBackend

_CONNECT_SECONDS = 10
_ISOLATION = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"


class MySQLBackend(ServerBackend):
    """Tasks in a MySQL (8.0 or later) or MariaDB (10.6 or later) database (extra `mysql`, aiomysql).

    `url`: `mysql://user:password@host/database`. `pool_size`: connections of this process. `timeout`: seconds that
    one operation may take, the wait for a connection included, before it raises `BackendUnavailableError`.

    Raises `ConfigurationError` for a URL of another kind, `MissingExtraError` without aiomysql.
    """

    name = "mysql"
    _begin = "START TRANSACTION"

    def __init__(self, url: str, *, pool_size: int = 5, timeout: float = 30.0) -> None:
        super().__init__(
            url,
            MySQLDialect(),
            schemes=("mysql", "mariadb"),
            driver="aiomysql",
            extra="mysql",
            pool_size=pool_size,
            timeout=timeout,
        )

    def _connect_args(self) -> dict[str, Any]:
        return {"connect_timeout": _CONNECT_SECONDS, "charset": "utf8mb4", "init_command": _ISOLATION}
