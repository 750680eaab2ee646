"""Where tasks are stored: one contract (`Backend`), implemented for memory, SQLite, PostgreSQL, MySQL and Redis."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from taskflow_otel.backends.redis import RedisBackend
    from taskflow_otel.backends.sql import MySQLBackend, PostgresBackend, SqliteBackend

__all__ = ["Backend", "MemoryBackend", "MySQLBackend", "PostgresBackend", "RedisBackend", "SqliteBackend"]

_HOMES = {"RedisBackend": f"{__name__}.redis"} | dict.fromkeys(
    ("MySQLBackend", "PostgresBackend", "SqliteBackend"), f"{__name__}.sql"
)
"""Loaded when they are first used: SQLAlchemy alone takes longer than all of the library."""


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
