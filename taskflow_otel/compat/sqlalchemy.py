"""SQLAlchemy: whether a connection commits each statement by itself."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection


def autocommits(connection: Connection) -> bool:
    """Whether SQLAlchemy was told that this connection commits by itself, for the connection or for its engine.

    The public `get_isolation_level` asks the database, which answers with the level of its transactions.
    """
    return connection._is_autocommit_isolation()  # noqa: SLF001


def driver_autocommits(connection: Connection) -> bool:
    """Whether the driver of this connection commits by itself, without SQLAlchemy's knowledge."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name != "sqlite":
        return getattr(driver, "autocommit", False) is True
    own: Any = connection.connection.driver_connection
    # Without an isolation level, Python's driver begins no transaction: then the application must have begun one.
    return own.isolation_level is None and not own.in_transaction
