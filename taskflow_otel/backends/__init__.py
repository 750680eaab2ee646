"""Where tasks are stored: one contract (`Backend`), implemented for memory, SQLite, PostgreSQL, MySQL and Redis."""

from __future__ import annotations

from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.backends.redis import RedisBackend
from taskflow_otel.backends.sql import MySQLBackend, PostgresBackend, SqliteBackend

__all__ = ["Backend", "MemoryBackend", "MySQLBackend", "PostgresBackend", "RedisBackend", "SqliteBackend"]
