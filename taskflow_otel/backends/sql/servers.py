"""The common part of the backends on a database server: the address, the pool, the time limits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

from sqlalchemy import URL, ExceptionContext, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from taskflow_otel.backends.faults import Fault
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.errors import ConfigurationError, MissingExtraError
from taskflow_otel.model.options import seconds, whole
from taskflow_otel.runtime.passwords import without_passwords


class ServerBackend(SqlBackend):
    """A SQL backend on a server, with a connection pool that replaces broken connections."""

    url_options: ClassVar[frozenset[str]]
    """The options that the URL may contain. All others are parameters, or the backend sets them."""
    _pool_options: ClassVar[Mapping[str, Any]] = {"pool_pre_ping": True}

    def __init__(
        self,
        url: str,
        dialect: Dialect,
        *,
        schemes: tuple[str, ...],
        driver: str,
        extra: str,
        pool_size: int,
        timeout: float | None,
        namespace: str | None,
    ) -> None:
        if find_spec(driver) is None:
            raise MissingExtraError(type(self).__name__, extra)
        self._url = _checked_url(url, schemes, self.url_options, type(self).__name__).set(
            drivername=f"{schemes[0]}+{driver}"
        )
        self._pool_size = whole("pool_size", pool_size, minimum=1)
        limit = None if timeout is None else seconds("timeout", timeout, exclusive=True)
        super().__init__(f"the database {_shown(self._url)}", dialect, limit, namespace)

    def _connect(self) -> tuple[AsyncEngine, AsyncEngine]:
        reader = create_async_engine(
            self._url,
            # Set once for each connection: if a caller were cancelled during a change, its connection would be lost.
            isolation_level="AUTOCOMMIT",
            paramstyle="format",
            pool_size=self._pool_size,
            max_overflow=0,
            pool_timeout=self._limits.operation,
            **self._pool_options,
            hide_parameters=True,
            connect_args=self._connect_args(),
        )
        begin = self._begin()
        event.listen(reader.sync_engine, "connect", lambda connection, _: self._set_up(connection))
        event.listen(reader.sync_engine, "handle_error", self._renew)
        writer = reader.execution_options()
        event.listen(writer.sync_engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return writer, reader

    @abstractmethod
    def _begin(self) -> str:
        """The statement that begins a READ COMMITTED transaction."""

    def _set_up(self, connection: DBAPIConnection) -> None:
        """Prepare a new connection."""

    def _renew(self, context: ExceptionContext) -> None:
        # The pool discards all its connections: they lead to another server now, or to one that changed its role.
        if self._dialect.fault(context.original_exception) is Fault.CONNECTION:
            context.is_disconnect = True

    def _connect_args(self) -> dict[str, Any]:
        return {}


def _shown(url: URL) -> str:
    return without_passwords(url.render_as_string(hide_password=True))


def _checked_url(url: str, schemes: tuple[str, ...], options: frozenset[str], backend: str) -> URL:
    example = f"{schemes[0]}://user:password@host/database"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"the database URL cannot be read. It looks like this: {example}") from None
    if parsed.get_backend_name() not in schemes or not parsed.database:
        raise ConfigurationError(f"{_shown(parsed)!r} is not the URL of such a database. It looks like this: {example}")
    if unknown := sorted(set(parsed.query) - options):
        raise ConfigurationError(
            f"the database URL has options that cannot be set there: {', '.join(unknown)}. "
            f"Possible are {', '.join(sorted(options))}; times and sizes are parameters of {backend}."
        )
    return parsed
