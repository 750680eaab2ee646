"""Tasks in PostgreSQL."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any, ClassVar

from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.faults import Fault
from taskflow_otel.backends.sql import postgres_batches, schema
from taskflow_otel.backends.sql.batch import Step
from taskflow_otel.backends.sql.dialects import PostgresDialect
from taskflow_otel.backends.sql.postgres_bell import PostgresBell
from taskflow_otel.backends.sql.servers import ServerBackend

logger: logging.Logger = logging.getLogger(__name__)


class PostgresBackend(ServerBackend):
    """Tasks in a PostgreSQL database, 13 or later (extra `postgres`, psycopg 3).

    `url`: `postgresql://user:password@host/database`. `pool_size`: connections of this process. `timeout`: seconds for
    one operation, including the wait for a connection; after it `BackendUnavailableError` is raised (default: a third
    of the lease, at most 10 s). `namespace` separates applications that share a database.

    With a pooler in front of the server, such as pgbouncer in transaction mode, no statements are prepared.

    Raises `ConfigurationError` for a URL of another kind or with options that cannot be set there, and
    `MissingExtraError` without psycopg.
    """

    name = "postgres"
    # https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    url_options: ClassVar[frozenset[str]] = frozenset(
        {
            "channel_binding", "gssencmode", "host", "hostaddr", "krbsrvname", "load_balance_hosts", "options",
            "passfile", "port", "require_auth", "service", "sslcert", "sslcertmode", "sslcompression", "sslcrl",
            "sslcrldir", "sslkey", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode", "sslnegotiation",
            "sslpassword", "sslrootcert", "sslsni", "target_session_attrs",
        }
    )  # fmt: skip

    def __init__(
        self, url: str, *, pool_size: int = 5, timeout: float | None = None, namespace: str | None = None
    ) -> None:
        super().__init__(
            url,
            PostgresDialect(),
            schemes=("postgresql", "postgres"),
            driver="psycopg",
            extra="postgres",
            pool_size=pool_size,
            timeout=timeout,
            namespace=namespace,
        )
        self.pool_bell: PostgresBell = PostgresBell(
            self._named(schema.pool.name), self._connect_alone, lambda: self._guard("listening")
        )

    async def _connect_alone(self) -> Any:
        """A connection beside the pool, which has few."""
        from psycopg import AsyncConnection as Alone  # only where this backend is used

        if self._read_engine is None:
            raise self._not_open()
        _, address = self._read_engine.dialect.create_connect_args(self._url)
        return await Alone.connect(**{**address, **self._connect_args()}, autocommit=True)

    def _begin(self) -> str:
        # Local to the transaction: behind a pooler, many clients share a session.
        limits = {
            "lock_timeout": self._limits.lock,
            "statement_timeout": self._limits.operation,
            "idle_in_transaction_session_timeout": self._limits.idle,
        }
        settings = [f"SET LOCAL {name} = {math.ceil(limit * 1_000)}" for name, limit in limits.items()]
        return "; ".join(("BEGIN ISOLATION LEVEL READ COMMITTED", *settings))

    async def _execute(self, connection: AsyncConnection, steps: Iterator[Step]) -> None:
        raw = await connection.get_raw_connection()
        try:
            await postgres_batches.execute(raw.driver_connection, steps)
        except self._driver_error as error:
            if self._dialect.fault(error) is Fault.CONNECTION:
                # As for an error that SQLAlchemy sees itself: see `_renew`.
                await connection.invalidate(error)
                for pooled in self._connections:
                    pooled.renew()
            raise DBAPIError.instance(None, None, error, self._driver_error, hide_parameters=True) from error

    def _set_up(self, connection: DBAPIConnection) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        (row,) = cursor.fetchall()
        cursor.close()
        driver: Any = getattr(connection, "driver_connection")  # noqa: B009 - not in SQLAlchemy's protocol
        if row[0] != driver.info.backend_pid:
            # A pooler answers for the server. A statement that was prepared through one connection may be unknown on
            # the next one, or belong to another client.
            driver.prepare_threshold = None

    def _connect_args(self) -> dict[str, Any]:
        limit = self._limits.operation
        return {
            "connect_timeout": max(2, math.ceil(limit)),
            "application_name": "taskflow-otel",
            "keepalives": 1,
            "keepalives_idle": max(1, math.ceil(limit / 2)),
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": math.ceil(limit * 1_000),
        }
