"""One SQL backend on SQLAlchemy Core, and the three databases that it speaks to."""

from __future__ import annotations

from taskflow_otel.backends.sql.mysql import MySQLBackend
from taskflow_otel.backends.sql.postgres import PostgresBackend
from taskflow_otel.backends.sql.sqlite import SqliteBackend

__all__ = ["MySQLBackend", "PostgresBackend", "SqliteBackend"]
