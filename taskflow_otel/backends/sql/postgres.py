"""Tasks in PostgreSQL."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, ClassVar

from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.backends.faults import Fault
from taskflow_otel.backends.sql import postgres_batches, schema
from taskflow_otel.backends.sql.batch import Batch, Step
from taskflow_otel.backends.sql.dialects import PostgresDialect
from taskflow_otel.backends.sql.postgres_batches import Flight, NotAppliedError
from taskflow_otel.backends.sql.postgres_bell import PostgresBell
from taskflow_otel.backends.sql.postgres_pool import PostgresPoolStore
from taskflow_otel.backends.sql.servers import ServerBackend
from taskflow_otel.backends.sql.writes import APPLIED, Writer
from taskflow_otel.errors import ConfigurationError

logger: logging.Logger = logging.getLogger(__name__)

# PQtransactionStatus, https://www.postgresql.org/docs/current/libpq-status.html
_IDLE, _OPEN = 0, (2, 3)
_UNCHECKED: ContextVar[bool] = ContextVar("taskflow_unchecked", default=False)
"""Whether the pool hands a connection out without asking first whether it still works."""


class PostgresBackend(ServerBackend):
    """Tasks in a PostgreSQL database, 13 or later (extra `postgres`, psycopg 3).

    `url`: `postgresql://user:password@host/database`. `pool_size`: connections of this process. `timeout`: seconds for
    one operation, including the wait for a connection; after it `BackendUnavailableError` is raised (default: a third
    of the lease, at most 10 s). `namespace` separates applications that share a database.

    With a pooler in front of the server, such as pgbouncer in transaction mode, no statements are prepared.

    The encoding of the database must be UTF8. Raises `ConfigurationError` for a URL of another kind or with options
    that cannot be set there, and `MissingExtraError` without psycopg.
    """

    name = "postgres"
    # See `_check` and `_roll_back`.
    _pool_options: ClassVar[Mapping[str, Any]] = {"pool_reset_on_return": None}
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

    def _make_pool_store(self) -> PostgresPoolStore:
        return PostgresPoolStore(self._read, self._transact, self._dialect, self._named, self._flight, self._guard)

    async def _connect_alone(self) -> Any:
        """A connection beside the pool, which has few."""
        from psycopg import AsyncConnection as Alone  # only where this backend is used

        if self._read_engine is None:
            raise self._not_open()
        _, address = self._read_engine.dialect.create_connect_args(self._url)
        return await Alone.connect(**{**address, **self._connect_args()}, autocommit=True)

    def _connect(self) -> tuple[AsyncEngine, AsyncEngine]:
        writer, reader = super()._connect()
        event.listen(reader.sync_engine, "checkout", self._check)
        event.listen(reader.sync_engine, "reset", _roll_back)
        return writer, reader

    async def _prepare(self, engine: AsyncEngine, lift_limit: Callable[[], None]) -> None:
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            # Sent with each connection; behind a pooler, by the pooler.
            encoding = driver.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8"):
            raise ConfigurationError(
                f"{self._where} has the encoding {encoding}, which cannot store every text. "
                "Make one that can: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )
        await super()._prepare(engine, lift_limit)

    def _check(self, connection: Any, _entry: object, _proxy: object) -> None:
        """Ask whether a connection of the pool still works, unless the caller handles that it does not."""
        if _UNCHECKED.get():
            return
        cursor = connection.cursor()
        try:
            cursor.execute(";")
        except self._driver_error as error:
            if self._dialect.fault(error) is Fault.CONNECTION:
                raise InvalidatePoolError from error
            raise
        finally:
            cursor.close()

    def _time_limits(self) -> dict[str, int]:
        """In milliseconds. Local to the transaction: behind a pooler, many clients share a session."""
        limits = {
            "lock_timeout": self._limits.lock,
            "statement_timeout": self._limits.operation,
            "idle_in_transaction_session_timeout": self._limits.idle,
        }
        return {name: math.ceil(limit * 1_000) for name, limit in limits.items()}

    def _begin(self) -> str:
        limits = [f"SET LOCAL {name} = {limit}" for name, limit in self._time_limits().items()]
        return "; ".join((postgres_batches.BEGIN, *limits))

    async def _execute(self, connection: AsyncConnection, steps: Iterator[Step]) -> None:
        raw = await connection.get_raw_connection()
        try:
            await postgres_batches.execute(raw.driver_connection, steps, postgres_batches.settings({}))
        except self._driver_error as error:
            if self._dialect.fault(error) is Fault.CONNECTION:
                # As for an error that SQLAlchemy sees itself: see `_renew`.
                await connection.invalidate(error)
                self._renew_connections()
            raise self._translated(error) from error

    async def _apply_at_once(self, writer: Writer, changes: Sequence[Change]) -> list[Applied]:
        """Apply a batch in one transaction that waits for the server twice, and if that cannot be, the ordinary way."""
        if await self._applied_in_flight(writer, changes):
            return [APPLIED] * len(changes)
        return await super()._apply_at_once(writer, changes)

    async def _applied_in_flight(self, writer: Writer, changes: Sequence[Change]) -> bool:
        """Return `False` if certainly nothing was applied, and another connection or another time may do it."""
        batch = Batch(writer.statements, changes)
        steps = chain(writer.steps(batch), batch.log_steps())
        try:
            async with self._flight() as flight:
                await postgres_batches.execute(
                    flight.driver, steps, postgres_batches.BEGIN, postgres_batches.settings(flight.limits)
                )
                flight.committing = True
                await postgres_batches.commit(flight.driver, writer.statements.lock_state, batch.owners)
        except NotAppliedError:
            return False
        return True

    @asynccontextmanager
    async def _flight(self) -> AsyncIterator[Flight]:
        """A connection for one transaction of few messages, which the caller begins and commits.

        Raises `NotAppliedError` if certainly nothing was applied, and another connection or another time may do it.
        """
        pooled = await self._unchecked_connection()
        driver: Any = pooled.driver_connection
        flight = Flight(driver, self._time_limits())
        try:
            yield flight
        except self._driver_error as error:
            fault = self._dialect.fault(error)
            if fault is Fault.CONNECTION:
                self._renew_connections()
                await driver.close()
            if fault is Fault.CONFLICT or (fault is Fault.CONNECTION and not flight.committing):
                raise NotAppliedError from error
            raise self._translated(error) from error
        except Exception:
            raise
        except BaseException:
            # Cancelled while the server works: how far it came is not known.
            await driver.close()
            raise
        finally:
            await _give_back(pooled)

    async def _unchecked_connection(self) -> PoolProxiedConnection:
        """A connection from the pool that may be broken: asking it first would take as long as a statement."""
        if self._write_engine is None:
            raise self._not_open()
        token = _UNCHECKED.set(True)
        try:
            return await self._write_engine.raw_connection()
        finally:
            _UNCHECKED.reset(token)

    def _translated(self, error: Exception) -> DBAPIError:
        translated = DBAPIError.instance(None, None, error, self._driver_error, hide_parameters=True)
        assert isinstance(translated, DBAPIError)
        return translated

    def _renew_connections(self) -> None:
        for pooled in self._connections:
            pooled.renew()

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
            # Not that of PGCLIENTENCODING, of the role or of the database.
            "client_encoding": "UTF8",
            "keepalives": 1,
            "keepalives_idle": max(1, math.ceil(limit / 2)),
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": math.ceil(limit * 1_000),
        }


def _roll_back(connection: Any, _record: object, _state: object) -> None:
    """End the open transaction of a returned connection."""
    if connection.driver_connection.pgconn.transaction_status in _OPEN:
        connection.rollback()


async def _give_back(pooled: PoolProxiedConnection) -> None:
    """Return a connection to its pool, without an open transaction."""
    driver: Any = pooled.driver_connection
    try:
        if driver.pgconn.transaction_status in _OPEN:
            await driver.rollback()
    except driver.Error:
        logger.debug("a connection broke while its transaction was rolled back")
    finally:
        if driver.pgconn.transaction_status != _IDLE:
            await driver.close()
            pooled.invalidate(soft=True)
        # If the backend was closed since, this closes the connection too.
        await greenlet_spawn(pooled.close)
