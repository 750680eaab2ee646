"""What every server process of a storm needs, imported once in the process that they are forked from."""

from __future__ import annotations

import aiomysql
import aiosqlite
import fastapi
import psycopg
import redis.asyncio

import taskflow_otel
import taskflow_otel.backends
import tests.chaos.backends
import tests.chaos.crash_points

__all__ = ["aiomysql", "aiosqlite", "fastapi", "psycopg", "redis", "taskflow_otel", "tests"]
