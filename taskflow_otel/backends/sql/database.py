"""The access to a SQL database: its connections, time limits, repeated transactions, and errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, UpdateBase, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from taskflow_otel.backends.faults import Fault, backend_error
from taskflow_otel.backends.forks import Forks
from taskflow_otel.backends.limits import DEFAULT_LEASE, Limits
from taskflow_otel.backends.sql import schema
from taskflow_otel.backends.sql.connections import Connections
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.faults import original
from taskflow_otel.backends.sql.names import namer, unnamed
from taskflow_otel.errors import BackendError, BackendUnavailableError, TaskflowError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.runtime.deadline import insistent

T = TypeVar("T")

_SAYS = {
    Fault.PASSING: "cannot be done now",
    Fault.CONNECTION: "failed",
    Fault.CONFLICT: "lost to other transactions several times",
    Fault.HELD: "waited too long",
    Fault.CHANGE: "was refused",
    Fault.SETUP: "is not possible until the database is repaired",
}
_TRANSACTION_ATTEMPTS = 5
_OPENING_SECONDS = 30.0


class Database(ABC):
    """One database: the base of the SQL backends, which says how to connect to it.

    `where`: how messages call it. `timeout`: the longest time of one operation in seconds; the lease may shorten it.
    `namespace`: a prefix of the tables.
    """

    name: str

    def __init__(self, where: str, dialect: Dialect, timeout: float | None, namespace: str | None) -> None:
        self._named = namer(namespace)
        self._where = where
        self._dialect = dialect
        self._asked_timeout = timeout
        self.use_lease(DEFAULT_LEASE)
        self._opened = False
        self._write_engine: AsyncEngine | None = None
        self._read_engine: AsyncEngine | None = None
        self._connections: list[Connections] = []
        self._forks = Forks()
        self._driver_error: type[Exception] = OperationalError
        """The driver's exceptions: SQLAlchemy does not translate them while it prepares a connection."""

    def use_lease(self, lease_seconds: float) -> None:
        """Derive the time limits from the lease; a given `timeout` is used if it is shorter."""
        self._limits = Limits.of_lease(lease_seconds, self._asked_timeout)

    @property
    def _timeout(self) -> float | None:
        """The time limit of one operation in seconds; `None` if the driver limits it."""
        return self._limits.operation

    def _in_namespace(
        self, connection: Connection, cursor: object, statement: str, parameters: T, context: object, many: bool
    ) -> tuple[str, T]:
        return self._named(statement), parameters

    @abstractmethod
    def _connect(self) -> tuple[AsyncEngine, AsyncEngine]:
        """Make the engine for writes, whose transactions exclude lost updates, and the engine for reads."""

    async def _open(self) -> AsyncEngine | None:
        """Connect and prepare the schema; return the engine for writes, or `None` if it is open already."""
        inherited = self._forks.crossed(self._write_engine, self._read_engine, self._connections)
        if self._opened and not inherited:
            return None
        self._opened = False
        self._limits.report(self._where)
        self._write_engine, self._read_engine = self._connect()
        pools = {engine.pool: engine for engine in (self._write_engine, self._read_engine)}
        self._connections = [Connections(engine) for engine in pools.values()]
        self._driver_error = self._write_engine.dialect.loaded_dbapi.Error
        if self._named is not unnamed:
            for engine in {self._write_engine.sync_engine, self._read_engine.sync_engine}:
                event.listen(engine, "before_cursor_execute", self._in_namespace, retval=True)
        try:
            # A busy server takes longer to create tables than for any operation.
            async with self._guard("opening", max(_OPENING_SECONDS, self._asked_timeout or 0.0)) as lift_limit:
                await self._prepare(self._write_engine, lift_limit)
        except BaseException:
            await self.close()
            raise
        self._opened = True
        return self._write_engine

    async def close(self) -> None:
        """Release every connection, thread and file. Safe to call twice."""
        self._opened = False
        self._write_engine = self._read_engine = None
        connections, self._connections = self._connections, []
        for pooled in connections:
            await pooled.close()

    def connections_in_use(self) -> int:
        """How many connections are in use now."""
        pools = {engine.pool for engine in (self._write_engine, self._read_engine) if engine is not None}
        return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))

    async def _prepare(self, engine: AsyncEngine, lift_limit: Callable[[], None]) -> None:
        async with engine.begin() as connection:
            # A migration of many tasks may take longer than an operation.
            await schema.prepare(connection, self._dialect, self._where, named=self._named, migrating=lift_limit)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Callable[[Executable], Awaitable[Sequence[Any]]]]:
        """Several statements of one query, on one connection."""
        async with self._guard("reading"):
            if self._read_engine is None:
                raise self._not_open()
            async with self._read_engine.connect() as connection:

                async def read(statement: Executable) -> Sequence[Any]:
                    return (await connection.execute(statement)).all()

                yield read

    async def _read(self, statement: Executable) -> Sequence[Any]:
        async with self._reading() as read:
            return await read(statement)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a transaction; repeat it if the database aborted it because of a conflicting transaction.

        It is also repeated once, on a new connection, if the old one proved to be unusable before the commit.
        """
        conflicts, renewed = 0, False
        while True:
            if self._write_engine is None:
                raise self._not_open()
            entered = committing = False
            try:
                async with self._write_engine.begin() as connection:
                    entered = True
                    answer = await work(connection)
                    committing = True
                return answer
            except DBAPIError as error:
                fault = self._dialect.fault(error)
                if fault is Fault.CONFLICT and conflicts < _TRANSACTION_ATTEMPTS - 1:
                    conflicts += 1
                elif fault is Fault.CONNECTION and entered and not committing and not renewed:
                    renewed = True
                else:
                    raise

    async def _transact(self, operation: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._guard(operation):
            return await self._write(work)

    async def _update_rows(self, statement: UpdateBase, operation: str) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement)).rowcount > 0

        return await self._transact(operation, work)

    def _not_open(self) -> BackendUnavailableError:
        return BackendUnavailableError(f"{self._where} is not open. Start the manager, or await backend.open() first.")

    @asynccontextmanager
    async def _guard(self, operation: str, seconds: float | None = None) -> AsyncIterator[Callable[[], None]]:
        """Translate the driver's exceptions, and limit the time until the value is called."""
        try:
            seconds = self._timeout and (seconds or self._timeout)
            async with insistent(SYSTEM_CLOCK, seconds, self._limits.lock) as lift_limit:
                yield lift_limit
        except TimeoutError as error:
            # Whatever silenced this connection may have silenced the others: one time limit for all of them.
            for pooled in self._connections:
                pooled.renew()
            raise self._explain(operation, error) from error
        except (SQLAlchemyError, OSError, ValueError, TypeError, ArithmeticError, self._driver_error) as error:
            if isinstance(error, TaskflowError):
                raise
            raise self._explain(operation, error) from error

    def _explain(self, operation: str, error: Exception) -> BackendError:
        """The library's error for a driver's error."""
        if isinstance(error, PoolTimeoutError):
            return BackendUnavailableError(
                f"{self._where}: {operation} found no free connection in time. "
                "Give the backend a larger pool, or find out what uses its connections."
            )
        if isinstance(error, TimeoutError):
            return BackendUnavailableError(f"{self._where}: {operation} took longer than {self._limits.operation:g} s")
        fault = self._dialect.fault(error)
        said = str(original(error)).strip()
        message = f"{self._where}: {operation} {_SAYS[fault]}: {said}"
        # The further lines may contain the statement and its values.
        first, *_ = said.splitlines() or [""]
        reason = f"the {self.name} database refuses a value: {first}"
        return backend_error(fault, message, opening=not self._opened, reason=reason)
