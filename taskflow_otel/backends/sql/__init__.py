"""One SQL backend on SQLAlchemy Core, for three kinds of databases."""

from __future__ import annotations

from taskflow_otel.backends.sql.mysql import MySQLBackend
from taskflow_otel.backends.sql.postgres import PostgresBackend
from taskflow_otel.backends.sql.sqlite import SqliteBackend

__all__ = ["MySQLBackend", "PostgresBackend", "SqliteBackend"]
