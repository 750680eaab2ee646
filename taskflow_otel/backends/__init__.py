"""Where tasks are kept: one contract (`Backend`), and memory, SQLite, PostgreSQL, MySQL and Redis behind it."""

from __future__ import annotations

from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.backends.redis import RedisBackend
from taskflow_otel.backends.sql import MySQLBackend, PostgresBackend, SqliteBackend

__all__ = ["Backend", "MemoryBackend", "MySQLBackend", "PostgresBackend", "RedisBackend", "SqliteBackend"]
