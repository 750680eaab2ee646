"""What is measured: each workload opens its world once and then runs as many operations as it is asked to.

A workload is an async context manager that yields `run(number)`. Ours and those we compare with have the same shape, so
that every tool (time, instructions, profile) measures either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path

Run = Callable[[int], Awaitable[None]]
Workload = Callable[[Path], AbstractAsyncContextManager[Run]]
"""Takes an empty directory for its files."""

PRODUCERS = 64
"""Operations under way at once."""

_MODULES = {
    "memory": "ours",
    "memory-sdk": "ours",
    "memory-spans": "ours",
    "memory-spans-off": "ours",
    "memory-by-hand": "ours",
    "sqlite": "ours",
    "sqlite-sdk": "ours",
    "sqlite-spans": "ours",
    "sqlite-spans-off": "ours",
    "history": "ours",
    "postgres": "ours",
    "mysql": "ours",
    "redis": "ours",
    "pool-postgres": "ours",
    "pool-redis": "ours",
    "route-memory": "routes",
    "route-sqlite": "routes",
    "route-native": "routes",
    "route-plain": "routes",
    "route-plain-native": "routes",
    "floor": "floor",
    "sdk": "sdk",
    "taskiq-memory": "peers_memory",
    "flow-memory": "peers_memory",
    "saq-redis": "peers_redis",
    "arq-redis": "peers_redis",
    "taskiq-redis": "peers_redis",
    "celery-redis": "peers_redis",
    "procrastinate-postgres": "peers_sql",
    "pgqueuer-postgres": "peers_sql",
    "huey-mysql": "peers_sql",
    "huey-sqlite": "peers_sql",
    "dbos-sqlite": "peers_sql",
}

NAMES = tuple(_MODULES)


def find(name: str) -> Workload:
    """The workload of this name; raises `ModuleNotFoundError` when what it measures is not installed."""
    workload: Workload = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name.replace("-", "_"))
    return workload
