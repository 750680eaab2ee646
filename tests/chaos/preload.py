"""What every server process of a storm needs, imported once in the process that they are forked from."""

from __future__ import annotations

import aiomysql
import aiosqlite
import celery.apps.worker
import celery.bin.celery
import celery.concurrency.prefork
import fastapi
import kombu.transport.pyamqp
import kombu.transport.redis
import opentelemetry.exporter.otlp.proto.http._log_exporter
import opentelemetry.exporter.otlp.proto.http.trace_exporter
import opentelemetry.instrumentation.fastapi
import psycopg
import redis.asyncio

import taskflow_otel
import taskflow_otel.admin
import taskflow_otel.backends
import taskflow_otel.celery
import taskflow_otel.cli.worker
import taskflow_otel.manager
import tests.chaos.backends
import tests.chaos.crash_points

__all__ = [
    "aiomysql",
    "aiosqlite",
    "celery",
    "fastapi",
    "kombu",
    "opentelemetry",
    "psycopg",
    "redis",
    "taskflow_otel",
    "tests",
]
