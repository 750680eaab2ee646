"""Tasks in Redis: one backend on redis-py's asyncio client, atomic through Lua scripts."""

from __future__ import annotations

from taskflow_otel.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
